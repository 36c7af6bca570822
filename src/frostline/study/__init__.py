"""Questions about plans: which one is right for this data, and what did it do to the embeddings."""
