"""The peers of ``bench call``, each a script of its own: an asker and an answerer in two processes.

They import nothing of Shardwright: so an environment in which the peer is installed can run them with its interpreter.
A line of JSON comes in (``size``, ``gap_us``, ``for_s``, ``cpus`` of asker and answerer), one goes out: the durations
in nanoseconds.
"""

from __future__ import annotations

LOOP = '''
import json, os, sys, time

def serve(ask, answerer):
    """``ask(payload)``; ``answerer`` is the pid of the other side."""
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pin(answerer, asked["cpus"][1])
        pin(os.getpid(), asked["cpus"][0])
        payload, gap_s = bytes(asked["size"]), asked["gap_us"] / 1e6
        for _ in range(20):
            ask(payload)
        clock, taken = time.perf_counter_ns, []
        end = time.monotonic() + asked["for_s"]
        while not taken or (time.monotonic() < end and len(taken) < 20000):
            if gap_s:
                time.sleep(gap_s)
            begun = clock()
            ask(payload)
            taken.append(clock() - begun)
        print(json.dumps(taken), flush=True)

def pin(pid, cpus):
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(task), cpus)
        except OSError:
            pass
'''

PLAIN = """
def echo(payload):
    return payload

serve(echo, os.getpid())
"""

SOCKETPAIR = """
import socket
near, far = socket.socketpair()

def whole(sock, size):
    data = sock.recv(size)
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data

child = os.fork()
if not child:
    near.close()
    while True:
        head = far.recv(4)
        if not head:
            os._exit(0)
        body = whole(far, int.from_bytes(head, "little"))
        far.sendall(head + body)
far.close()

def ask(payload):
    near.sendall(len(payload).to_bytes(4, "little") + payload)
    return whole(near, int.from_bytes(whole(near, 4), "little"))

serve(ask, child)
"""

PIPE = """
from multiprocessing import Pipe
near, far = Pipe()
child = os.fork()
if not child:
    near.close()
    while True:
        try:
            far.send(far.recv())
        except EOFError:
            os._exit(0)
far.close()

def ask(payload):
    near.send(payload)
    return near.recv()

serve(ask, child)
"""

MANAGERS = """
from multiprocessing.managers import BaseManager

class Far:
    def echo(self, payload):
        return payload

class Here(BaseManager):
    pass

Here.register("Far", Far)
manager = Here()
manager.start()
far = manager.Far()
try:
    serve(far.echo, manager._process.pid)
finally:
    manager.shutdown()
"""

POOL = """
from concurrent.futures import ProcessPoolExecutor

def echo(payload):
    return payload

with ProcessPoolExecutor(1) as pool:
    child = pool.submit(os.getpid).result()
    serve(lambda payload: pool.submit(echo, payload).result(), child)
"""

GRPC = """
import subprocess, tempfile
FAR = '''
import sys, grpc
from concurrent.futures import ThreadPoolExecutor

class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

most = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
server = grpc.server(ThreadPoolExecutor(4), handlers=(Echo(),), options=most)
server.add_insecure_port("unix:" + sys.argv[1])
server.start()
print("up", flush=True)
sys.stdin.read()
server.stop(0)
'''
import grpc
with tempfile.TemporaryDirectory() as folder:
    path = folder + "/far"
    far = subprocess.Popen([sys.executable, "-c", FAR, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    far.stdout.readline()
    most = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel("unix:" + path, options=most) as channel:
        serve(channel.unary_unary("/far/echo"), far.pid)
    far.stdin.close()
    far.wait(10)
"""

RAY = """
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

@ray.remote
class Far:
    def pid(self):
        return os.getpid()

    def echo(self, payload):
        return payload

far = Far.remote()
serve(lambda payload: ray.get(far.echo.remote(payload)), ray.get(far.pid.remote()))
ray.shutdown()
"""

PEERS = {
    "plain": PLAIN,
    "socketpair": SOCKETPAIR,
    "pipe": PIPE,
    "managers": MANAGERS,
    "pool": POOL,
    "grpc": GRPC,
    "ray": RAY,
}
"""By the name of the case: what is run behind ``LOOP``."""
