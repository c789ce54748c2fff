"""ASGI applications of which only the life is looked at: what they hear is written to a file beside them."""

import os

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "out")


def write(line):
    with open(os.path.join(HERE, "heard"), "a") as file:
        file.write(line + "\n")


async def answer(scope, receive, send):
    write(scope["type"])
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "here"})
        event = await receive()
        write(event["type"])
        return
    body = ",".join(sorted(scope.get("state", {}))).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def full(scope, receive, send):
    if scope["type"] != "lifespan":
        await answer(scope, receive, send)
        return
    event = await receive()
    write(event["type"])
    scope["state"]["pool"] = "a pool"
    await send({"type": "lifespan.startup.complete"})
    event = await receive()
    write(event["type"])
    await send({"type": "lifespan.shutdown.complete"})
    write("lifespan returned")


async def unsupported(scope, receive, send):
    if scope["type"] != "http":
        write(f"no {scope['type']}")
        raise ValueError("only HTTP here")
    await answer(scope, receive, send)


async def returns(scope, receive, send):
    """Returns from its lifespan at once, without a word."""
    if scope["type"] == "lifespan":
        write("lifespan")
        return
    await answer(scope, receive, send)


async def failing_shutdown(scope, receive, send):
    if scope["type"] != "lifespan":
        await answer(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    write("shutdown")
    await send({"type": "lifespan.shutdown.failed", "message": "not today"})


async def failing(scope, receive, send):
    if scope["type"] != "lifespan":
        await answer(scope, receive, send)
        return
    await receive()
    write("startup")
    await send({"type": "lifespan.startup.failed", "message": "no database"})


class Double:
    """Of ASGI 2: called twice."""

    def __call__(self, scope):
        async def instance(receive, send):
            if scope["type"] == "lifespan":
                raise ValueError("not of ASGI 2")
            await answer(scope, receive, send)

        return instance


double = Double()
