"""Finding the nearest caption: Sentence-BERT, FAISS segments, and search over several of them."""
