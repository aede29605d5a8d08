"""As much of a CVAT server as `cvat-cli task auto-annotate` asks: a task with photos."""

import io
import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

FIRST_LABEL = 100  # number of the first label of the task


class StandInCvat:
    """A server with one task, number 1.

    Args:
        photos: Of the task.
        names: Its labels.

    Attributes:
        sent: What was to be added to its annotations.
    """

    def __init__(self, photos: Sequence[Path], names: Sequence[str]) -> None:
        self.photos, self.names = list(photos), list(names)
        self.sent: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, query: str, body: bytes) -> bytes | None:
        """What a request is answered with; None if there is no such thing."""
        if method == "PATCH" and path == "/api/tasks/1/annotations" and "action=create" in query:
            self.sent.append(json.loads(body))
            return _json({"version": 1, "tags": [], "shapes": [], "tracks": []})
        answers = {
            "/api/server/about": lambda: _json({
                "name": "CVAT", "description": "", "version": "2.80.0", "subtitle": "",
                "logo_url": "http://127.0.0.1/"}),
            "/api/tasks/1": lambda: _json(self._task()),
            "/api/labels": lambda: _json(self._labels()),
            "/api/tasks/1/data/meta": lambda: _json(self._meta()),
            "/api/tasks/1/data": self._chunk,
        }  # fmt: skip
        return answers[path]() if method == "GET" and path in answers else None

    def _task(self) -> dict[str, Any]:
        return {
            "id": 1, "name": "photos", "mode": "annotation", "size": len(self.photos), "data": 1,
            "data_chunk_size": len(self.photos), "data_original_chunk_type": "imageset",
            "data_compressed_chunk_type": "imageset", "dimension": "2d", "organization": None,
            "created_date": "2026-11-30T00:00:00Z", "updated_date": "2026-11-30T00:00:00Z",
            "labels": {"url": "http://127.0.0.1/api/labels?task_id=1"},
            "jobs": {"url": "http://127.0.0.1/api/jobs?task_id=1", "count": 1, "completed": 0,
                     "validation": 0},
        }  # fmt: skip

    def _labels(self) -> dict[str, Any]:
        rows = [{"id": FIRST_LABEL + n, "name": name, "type": "any", "attributes": [],
                 "sublabels": []} for n, name in enumerate(self.names)]  # fmt: skip
        return {"count": len(rows), "next": None, "previous": None, "results": rows}

    def _meta(self) -> dict[str, Any]:
        frames = []
        for path in self.photos:
            with Image.open(path) as image:
                frames.append({"width": image.width, "height": image.height, "name": path.name,
                               "related_files": 0})  # fmt: skip
        return {"image_quality": 70, "frames": frames, "deleted_frames": [], "start_frame": 0,
                "stop_frame": len(frames) - 1, "size": len(frames), "chunks_updated_date":
                "2026-11-30T00:00:00Z", "chunk_size": len(frames)}  # fmt: skip

    def _chunk(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as chunk:
            for number, path in enumerate(self.photos):
                chunk.writestr(f"{number:06}{path.suffix}", path.read_bytes())
        return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextmanager
def serving(cvat: StandInCvat) -> Iterator[str]:
    """Serve on a free port of this machine meanwhile; its address."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            path, _, query = self.path.partition("?")
            path = path.rstrip("/")
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            made = cvat.answer(self.command, path, query, body)
            self.send_response(404 if made is None else 200)
            is_chunk = path.endswith("/data")
            self.send_header("Content-Type", "application/zip" if is_chunk else "application/json")
            self.send_header("Content-Length", str(len(made or b"{}")))
            self.end_headers()
            self.wfile.write(made or b"{}")

        do_GET = do_PATCH = do_POST = handle_one

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
