"""`python -m lavis_mafa.evaluate --cfg-path X.yaml --options model.pretrained=checkpoint.pth`: evaluation alone."""

from __future__ import annotations

from lavis_mafa import train


def main() -> None:
    train.main("Evaluate a checkpoint", evaluate=True)


if __name__ == "__main__":
    main()
