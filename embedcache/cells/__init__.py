"""Cells for encoders that read genes: from counts to the ranked gene tokens of Geneformer.

    plain_pickle     dictionaries as Geneformer publishes them, read without running anything
    dictionary       gene -> token, gene -> median, symbol -> Ensembl id, from pickle, JSON or a table
    model            what an encoder asks of a cell: limit, special tokens, where its dictionaries are
    vocabulary       which gene of an input has which token and median
    rank             the rank-value encoding itself

Readers of files are in `embedcache.sources`.
"""
