"""A program that lets callers of a port in by TLS, to a server behind a Unix socket; it prints the port.

Arguments: the socket, a certificate, its key, and the CA of callers, who need no certificate where it is left out.
"""

import asyncio
import contextlib
import ssl
import sys


async def main(socket: str, certificate: str, key: str, ca_of_callers: str | None = None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if ca_of_callers is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca_of_callers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


asyncio.run(main(*sys.argv[1:]))
