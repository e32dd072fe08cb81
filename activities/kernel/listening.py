"""Who answers on a Unix socket: only listed users are let in, one thread a connection, and a bounded number of them."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

from schemas.error import Gen4Error, InfrastructureError, InputError, Refused

from .channel import Channel, Closed, Message, describe, listen

FIRST_CALL_S = 30.0
"""A connection that asks nothing for so long is closed."""

JOIN_S = 15.0
"""Longer than a sandbox takes to end."""

_PAUSE_S = 0.1

log = logging.getLogger(__name__)

Handler = Callable[[Channel, Any, IO[bytes]], None]
"""Answers one call on its channel; what it raises is sent as the call's error."""


class Listener:
    """One socket and what answers there. ``clients``: uids, by the kernel's word (SO_PEERCRED)."""

    def __init__(self, path: Path, clients: Collection[int], own: int, handle: Handler, *, most: int = 64) -> None:
        self._clients = frozenset(clients)
        self._handle = handle
        self._socket = listen(path, shared=bool(self._clients - {own}))
        self._slots = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._open: dict[Channel, threading.Thread] = {}
        self._stopping = False

    def serve(self) -> None:
        """Answer until :meth:`stop`."""
        while not self._stopping:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if not self._stopping:  # out of descriptors, say: who has connected already goes on, and frees some
                    log.warning("no connection could be accepted: %s", error.strerror)
                    time.sleep(_PAUSE_S)
                continue
            self._take(connection)

    def stop(self) -> None:
        """Let nobody else in and hang up on everybody; returns when all that was being done has ended."""
        with self._lock:
            self._stopping = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes up who accepts
        except OSError:
            pass  # nobody did
        self._socket.close()
        with self._lock:
            open_now = dict(self._open)
        for channel in open_now:
            channel.hang_up()
        for thread in open_now.values():
            thread.join(JOIN_S)

    def _take(self, connection: socket.socket) -> None:
        channel = Channel(connection)
        peer = channel.peer
        if peer.uid not in self._clients:
            log.warning("refused a connection of uid %d (process %d): it is not a client", peer.uid, peer.pid)
            _answer(channel, Refused("CHANNEL_REFUSED", f"uid {peer.uid} may not call here", "ask the operator to list it"))
            channel.close()
            return
        if not self._slots.acquire(blocking=False):
            _answer(channel, InfrastructureError("CHANNEL_BUSY", "too many calls at once", "it is tried again"))
            channel.close()
            return
        thread = threading.Thread(target=self._serve, args=(channel,), name="gen4-call", daemon=True)
        with self._lock:
            if self._stopping:  # it came in while everybody else was hung up on
                self._slots.release()
                channel.close()
                return
            self._open[channel] = thread
            thread.start()

    def _serve(self, channel: Channel) -> None:
        try:
            channel.wait_at_most(FIRST_CALL_S)
            message, body = channel.receive()
            channel.wait_at_most(None)
            if message.keys() != {"call"}:
                raise InputError("CALL_INVALID", "the first frame is no call", "speak the protocol of this version")
            self._handle(channel, message["call"], body)
        except Closed:
            pass  # whoever handled the call has ended what it had begun
        except Gen4Error as error:
            _answer(channel, error)
        except Exception:
            log.exception("a call failed")
            _answer(channel, InfrastructureError("CALL_FAILED", "the call failed", "see the log of the process that was called"))
        finally:
            channel.hang_up()  # also wakes up a thread that still listens here
            channel.close()
            with self._lock:
                del self._open[channel]
            self._slots.release()


def _answer(channel: Channel, error: Gen4Error) -> None:
    message: Message = {"error": describe(error)}
    try:
        channel.send(message)
    except Closed:
        pass  # nobody is there to be told
