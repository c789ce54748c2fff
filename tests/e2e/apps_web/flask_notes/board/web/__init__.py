"""The application."""

import itertools
import os

from flask import (
    Flask,
    abort,
    flash,
    jsonify,
    redirect,
    render_template,
    request,
    session,
    stream_with_context,
    url_for,
)

from board import logic

app = Flask(__name__)
app.secret_key = "not a secret"


@app.get("/")
def index():
    return render_template("index.html", topics=logic.topics(), user=session.get("user"))


@app.post("/login")
def login():
    session["user"] = request.form["user"]
    flash("hello " + request.form["user"])
    return redirect(url_for("index"))


@app.post("/topics/<topic>")
def post(topic):
    if "user" not in session:
        abort(401)
    try:
        number = logic.post(topic, session["user"], request.form.get("text", ""))
    except logic.Refused as refused:
        return jsonify({"field": refused.field, "why": refused.why}), 400
    return redirect(url_for("read", topic=topic) + f"#{number}", 303)


@app.get("/topics/<topic>")
def read(topic):
    try:
        messages = logic.read(topic)
    except KeyError:
        abort(404)
    return render_template("topic.html", topic=topic, messages=messages)


@app.get("/topics/<topic>.txt")
def text(topic):
    def found():
        yield f"topic {topic} for {request.args.get('for', 'everybody')}\n"
        for index in itertools.count():
            line = logic.line(topic, index)
            if line is None:
                return
            yield line

    return app.response_class(stream_with_context(found()), mimetype="text/plain")


@app.post("/digest")
def digest():
    file = request.files["file"]
    return {"name": file.filename, **logic.digest(file.read())}


@app.errorhandler(404)
def not_found(error):
    return render_template("missing.html", path=request.path), 404


@app.get("/broken")
def broken():
    raise RuntimeError("a mistake")


@app.get("/where")
def where():
    return {"web": os.getpid(), **logic.where()}
