"""The method itself on torch, NumPy, FAISS and pandas: it knows neither LAVIS nor transformers."""
