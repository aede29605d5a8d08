"""Edits a label store until it is killed, and says on stdout what was committed.

python label_editor_to_kill.py FOLDER SEED ROUNDS

Forks an editor ROUNDS times, each of which is killed at a random point; a line stands for an edit
whose call has returned: photo, revision, and the digest of what it should hold.
"""

import hashlib
import os
import random
import signal
import sys
import time

from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import LabelBox, PhotoLabels


def digest(labels: PhotoLabels) -> str:
    """What a revision says, in few letters."""
    said = (labels.state, [(box.corners, box.name, dict(box.extra)) for box in labels.boxes])
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def edit(store: LabelStore, draw: random.Random) -> PhotoLabels:
    """One edit of any kind."""
    photo = f"photo{draw.randrange(5)}.jpg"
    kind = draw.choice(["put", "put", "put", "empty", "undo", "redo"])
    undo, redo = store.can_step(photo)
    if kind == "undo" and undo:
        return store.undo(photo)
    if kind == "redo" and redo:
        return store.redo(photo)
    if kind == "empty":
        return store.put(photo, [], state="empty")
    x, name = draw.uniform(0, 90), f"class{draw.randrange(4)}"
    box = LabelBox((x, 1.0, x + 7, 9.5), name, {"pose": "Left" * draw.randrange(50)})
    return store.put(photo, [box] * draw.randrange(1, 40))


def work(folder: str, seed: int, out: int) -> None:
    """Edit for ever; a line is written only after its edit is committed."""
    draw = random.Random(seed)
    store = LabelStore(folder, folder)
    while True:
        made = edit(store, draw)
        os.write(out, f"{made.photo} {made.revision} {digest(made)}\n".encode())
        if draw.random() < 0.2:
            store.put_suggestions(made.photo, [], f"model {made.revision}")


def main() -> None:
    """Fork and kill."""
    folder, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    for number in range(rounds):
        from_child, to_parent = os.pipe()
        child = os.fork()
        if not child:
            work(folder, draw.randrange(2**30) + number, to_parent)
        os.close(to_parent)
        said = b""
        wanted = draw.randrange(9)  # so many edits at least, however busy the machine is
        while said.count(b"\n") < wanted:
            said += os.read(from_child, 4096)
        time.sleep(draw.uniform(0.0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(from_child, 4096):
            said += more
        os.close(from_child)
        sys.stdout.write(said.decode())


if __name__ == "__main__":
    main()
