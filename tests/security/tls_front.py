"""A TLS front for a server that has none: the pip-installed Redis and PostgreSQL lack TLS."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.security.certificates import CertificateFiles

POSTGRES_TLS_REQUEST = bytes.fromhex("0000000804d2162f")
"""SSLRequest of PostgreSQL's protocol 3: a client that asks for TLS sends it in the clear."""


@contextmanager
def tls_front(port: int, files: CertificateFiles, *, postgres: bool = False) -> Iterator[int]:
    """Accept TLS on a free port of 127.0.0.1 and pass the bytes on to `port`; yield the port.

    With `postgres`, TLS begins when the client has asked for it; one that does not is cut off.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if postgres and not await _tls_begun(reader, writer, context):
            return
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, behind_writer), _pump(behind_reader, writer))

    at_once = None if postgres else context
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=at_once))
    loop.set_exception_handler(lambda loop, context: None)  # a client that refuses the certificate
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _tls_begun(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext
) -> bool:
    if await reader.read(len(POSTGRES_TLS_REQUEST)) != POSTGRES_TLS_REQUEST:
        writer.close()
        return False
    writer.write(b"S")
    await writer.drain()
    await writer.start_tls(context)
    return True


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()
