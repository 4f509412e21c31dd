"""Who touched which item, what the items are, and how such data come in.

Where to enter:

- `dataset.Dataset`: the four tables (interactions, items, users, links), written and read.
- `importers.import_dataset`: foreign formats into a `Dataset`.
- `schema`: the columns and types of each table, and the check that every `Dataset` passes.
- `rejects.Rejects`: the rows that could not be read; counted, shown and kept in a file.
- `log`, `catalogue`, `incidence`, `graph`, `content`: a `Dataset` as arrays, the item graph's
  edges, and the items' content vectors.

Imports nothing from `services/`, `pipelines/` or `errata/`, nor from `feature_store/traffic/`.
"""
