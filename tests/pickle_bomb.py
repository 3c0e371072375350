"""What an unsafe reader of checkpoints would execute."""

import os


class Bomb:
    """Leaves a file behind when it is unpickled by an unsafe reader."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)
