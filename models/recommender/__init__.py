"""The recommender's networks.

Reading order: `neighbours.py` (which neighbours an item listens to in one step), `hgnn.py` (one
convolution per edge type), `towers.py` (item and user vectors that meet in an inner product),
`losses.py`. Nothing here reads a file or knows an item's id: rows in, vectors out.
"""
