"""A server that goes away and comes back at the same address."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Passage:
    """An address of its own that leads to a server, until it is closed and after it is opened again."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname, urlsplit(url).port)
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock, self._is_over = threading.Lock(), False
        self.has_answered = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._serve()

    def open(self) -> None:
        """Let callers through again, unless the test is over."""
        with self._lock:
            if not self._is_over:
                self._listener = socket.create_server(("127.0.0.1", urlsplit(self.url).port or 0))
                self._serve()

    def close(self) -> None:
        """Cut all connections, and take no more."""
        with self._lock:
            for each in (self._listener, *self._sockets):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._sockets.clear()

    def end(self) -> None:
        """Close for good."""
        with self._lock:
            self._is_over = True
        self.close()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with self._lock:
                    if listener.fileno() < 0:  # closed meanwhile
                        caller.close()
                        return
                    self._sockets.append(caller)
                    server = socket.create_connection(self._target)
                    self._sockets.append(server)
                for source, sink in ((caller, server), (server, caller)):
                    threading.Thread(target=self._pour, args=(source, sink), daemon=True).start()

    def _pour(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if source.getpeername() == self._target:
                    self.has_answered.set()
            sink.shutdown(socket.SHUT_WR)
