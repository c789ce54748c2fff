"""The application."""

import os
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated

from fastapi import (
    BackgroundTasks,
    Depends,
    FastAPI,
    HTTPException,
    Query,
    Request,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.middleware.sessions import SessionMiddleware

from notes import logic
from notes.model import NoSuchNote, TooLong


@asynccontextmanager
async def lifespan(app: FastAPI):
    yield {"greeting": "hello"}


app = FastAPI(title="Notes", lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key="not a secret")


class NewNote(BaseModel):
    title: str = Field(min_length=1, max_length=20)
    text: str = ""


class ShownNote(NewNote):
    id: int
    owner: str
    tags: list[str]


def user(request: Request) -> str:
    name = request.session.get("user")
    if name is None:
        raise HTTPException(401, "say who you are first")
    return name


User = Annotated[str, Depends(user)]


@app.exception_handler(TooLong)
async def too_long(request: Request, error: TooLong):
    raise HTTPException(413, str(error))


@app.post("/login/{name}")
def login(name: str, request: Request):
    request.session["user"] = name
    return {"user": name, "greeting": request.state.greeting}


@app.post("/notes", status_code=201)
def create(note: NewNote, owner: User, tasks: BackgroundTasks) -> ShownNote:
    made = logic.create(owner, note.title, note.text)
    tasks.add_task(logic.note_done, f"created {made.id}")
    return ShownNote(**asdict(made))


@app.get("/notes")
def mine(owner: User, tag: Annotated[str | None, Query(max_length=10)] = None) -> list[ShownNote]:
    return [ShownNote(**asdict(note)) for note in logic.mine(owner, tag)]


@app.get("/notes/{number}")
def read(number: int) -> ShownNote:
    try:
        return ShownNote(**asdict(logic.read(number)))
    except NoSuchNote:
        raise HTTPException(404, f"there is no note {number}") from None


@app.delete("/notes/{number}", status_code=204)
def remove(number: int, owner: User) -> None:
    try:
        logic.remove(number)
    except NoSuchNote:
        raise HTTPException(404) from None


@app.post("/words")
async def words(file: UploadFile):
    text = (await file.read()).decode()
    return {"file": file.filename, "length": len(text), "words": logic.words(text)}


@app.get("/export")
def export():
    return StreamingResponse((logic.line(number) for number in logic.numbers()), media_type="text/csv")


@app.get("/done")
def done() -> list[str]:
    return logic.done()


@app.get("/broken")
def broken():
    raise RuntimeError("a mistake")


@app.get("/where")
def where() -> dict[str, int]:
    return {"web": os.getpid(), **logic.where()}


@app.websocket("/search")
async def search(socket: WebSocket):
    await socket.accept(subprotocol="search")
    try:
        while True:
            word = await socket.receive_text()
            if not word:
                await socket.close(4000, "nothing asked")
                return
            await socket.send_json({"word": word, "found": await logic.search(word)})
    except WebSocketDisconnect as end:
        logic.note_done(f"searched {end.code}")
