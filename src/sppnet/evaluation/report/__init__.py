"""Reports as single HTML pages: ``html.py`` is the page, ``charts.py`` its charts."""
