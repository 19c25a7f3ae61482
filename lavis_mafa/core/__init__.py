"""The method itself, on torch, NumPy, FAISS and pandas; imports neither LAVIS nor transformers."""
