"""Very many photos: a row of a table for each, worked out on this machine or on a cluster by Ray.

``rows.py`` says what a photo gives (detections, classes, vectors, or why it gives nothing), and how
one model goes over some of them; ``photos.py`` where photos are listed and read from.
``cluster.py`` sends all of them through such models, here or in Ray's actors, and keeps the rows as
Parquet, so that the same command goes on where it stopped. Start with ``rows.py``.

Both need pyarrow, which ``pip install 'sppnet[ray]'`` brings; nothing here imports it before it is
needed.
"""
