"""Pages on this machine: ``sppnet label`` over HTTP, for 127.0.0.1 only.

Where to start reading, in this order:

- ``label_app.py``: the requests and their answers; ``desk.py``: what each of them does.
- ``label_work.py``: the thread that learns after edits and measures what to expect.
- ``board.py``: photos and labels as lists, and those photos on which nothing is suggested.
- ``files.py``: pictures, downloads, and the run over the other photos.
- ``local.py``: a server for this machine only; ``answers.py``: JSON, errors, events.

``page/`` holds the built page; its source is in ``web/`` of the repository. Nothing here needs
torch before the first photo is opened, so that the page is there at once.
"""
