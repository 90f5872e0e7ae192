"""How much work and memory a file may ask for."""

MAX_STEPS = 1_000_000
"""Opcodes and copied entries. A small StyleGAN2 snapshot takes 16,000; what a step builds takes up to 500 bytes."""

BYTES_PER_FILE_BYTE = 4
"""What tensors may hold: once in storages, once as seen through tensors, and shared tensors a few times over."""


class Budget:
    """What is left of it while a file of `file_bytes` is read. Both methods raise ValueError when it is spent."""

    def __init__(self, file_bytes: int) -> None:
        self._steps = MAX_STEPS
        self._file_bytes = file_bytes
        self._bytes = BYTES_PER_FILE_BYTE * file_bytes

    def step(self, count: int = 1) -> None:
        self._steps -= count
        if self._steps < 0:
            raise ValueError(f"it takes more than {MAX_STEPS} steps to read")

    def take(self, size_bytes: int) -> None:
        self._bytes -= size_bytes
        if self._bytes < 0:
            raise ValueError(f"its tensors take more than a file of {self._file_bytes} bytes can hold; is it cut off?")
