"""`python -m lavis_mafa.evaluate --cfg-path X.yaml --options model.pretrained=checkpoint.pth`: evaluation alone."""

from __future__ import annotations

from lavis_mafa.train import main

if __name__ == "__main__":
    main("Evaluate with LAVIS' registry", evaluate=True)
