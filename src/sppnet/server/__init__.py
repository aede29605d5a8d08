"""HTTP: the page of ``sppnet label`` for this machine, and ``sppnet serve`` for programs.

What both share: ``local.py``, what is let in and how long a client may take; ``answers.py``, JSON,
errors, events. Where to start reading ``sppnet serve``:

- ``serve_app.py``: the requests, their answers, the page about them, metrics.
- ``serve_gate.py``: who may ask, how much they bring, which photos are in it.
- ``workers.py``: processes that look at photos, within limits, replaced when they die.

``label_studio.py`` is what ``sppnet serve --label-studio`` answers, on the learner of ``sppnet
label``. And that, in this order:

- ``label_app.py``: the requests and their answers; ``desk.py``: what each of them does.
- ``label_work.py``: the thread that learns after edits and measures what to expect.
- ``board.py``: photos and labels as lists, and those photos on which nothing is suggested.
- ``files.py``: pictures, downloads, and the run over the other photos.

``page/`` holds the built page; its source is in ``web/`` of the repository. Nothing here needs
torch before the first photo is opened, so that the page is there at once.
"""
