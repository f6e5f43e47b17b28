"""Looking at a store: its rows as a table, its repeats, its embeddings as a map."""
