"""Pages on this machine: ``sppnet label`` over HTTP, for 127.0.0.1 only.

Where to start reading, in this order:

- ``label_app.py``: the requests and their answers; ``desk.py``: what each of them does.
- ``label_work.py``: the thread that learns after edits and measures what to expect.
- ``board.py``: photos and labels as lists, without a model; ``agreement.py``: photos on which
  nothing is suggested, so that people and model can be compared.
- ``photos.py``: upright pictures and thumbnails. ``downloads.py``, ``jobs.py``: what takes longer.
- ``guard.py``: which requests are let in; ``events.py``: server-sent events; ``answers.py``: JSON
  and errors; ``running.py``: uvicorn on a free port.

``page/`` holds the built page; its source is in ``web/`` of the repository. Nothing here needs
torch before the first photo is opened, so that the page is there at once.
"""
