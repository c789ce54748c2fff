"""Python's own library: which names of it reach files, the network, processes, or code that is not in sight.

What is in no table counts as reaching: a module that nobody has looked at is not known to be quiet. Names count where walls
could make a difference: a process id is the same in all shards behind walls, so whoever asks for it may be surprised;
`os.environ` and `os.getcwd` answer there as anywhere.
"""

from __future__ import annotations

from types import MappingProxyType

from shardwright.sharding.reaches._known import FILES, LIBRARY, NETWORK, PROCESS, Known, quiet_but, reaches_by

_QUIET = (
    "__future__ abc array ast atexit base64 binascii bisect calendar cmath collections collections.abc colorsys contextlib "
    "contextvars copy copyreg csv dataclasses datetime decimal difflib dis email encodings enum errno fnmatch fractions "
    "functools gc getopt graphlib hashlib heapq hmac html html.entities html.parser http http.cookies inspect ipaddress "
    "itertools json keyword marshal math numbers opcode operator pprint queue quopri random re reprlib sched secrets "
    "stat statistics string stringprep struct textwrap threading time timeit token tomllib traceback types typing unicodedata "
    "urllib.error urllib.parse warnings weakref xml.sax.saxutils zlib zoneinfo plistlib"
)
_WHOLE = {
    FILES: "dbm fileinput filecmp glob grp linecache mailbox mimetypes mmap netrc pwd shelve shutil tempfile zipapp "
    "fcntl gettext http.cookiejar importlib.metadata importlib.resources logging.config logging.handlers pstats",
    NETWORK: "ftplib http.client http.server imaplib nntplib poplib select selectors smtplib socketserver ssl telnetlib "
    "urllib urllib.request urllib.robotparser urllib.response wsgiref xmlrpc",
    PROCESS: "curses faulthandler getpass multiprocessing os.spawn pdb pty readline resource signal subprocess syslog "
    "termios tty webbrowser asyncio.subprocess _posixsubprocess concurrent.futures.process",
    LIBRARY: "code codeop ctypes imp pkgutil runpy site zipimport importlib.util importlib.machinery importlib.abc "
    "_ctypes _io _thread posix",
}

_PATHS = (
    "abspath basename commonpath commonprefix curdir dirname extsep isabs join normcase normpath pardir pathsep relpath "
    "sep split splitdrive splitext splitroot altsep defpath devnull supports_unicode_filenames"
)
_STREAMS = (
    "BytesIO StringIO TextIOWrapper BufferedReader BufferedWriter BufferedRandom BufferedRWPair IOBase RawIOBase "
    "BufferedIOBase TextIOBase IncrementalNewlineDecoder UnsupportedOperation BlockingIOError DEFAULT_BUFFER_SIZE SEEK_SET "
    "SEEK_CUR SEEK_END"
)
_TASKS = (
    "ALL_COMPLETED Barrier BoundedSemaphore BrokenBarrierError CancelledError Condition Event FIRST_COMPLETED "
    "FIRST_EXCEPTION Future Handle IncompleteReadError InvalidStateError LifoQueue LimitOverrunError Lock PriorityQueue "
    "Queue QueueEmpty QueueFull QueueShutDown Runner Semaphore Task TaskGroup Timeout TimeoutError TimerHandle all_tasks "
    "as_completed create_task current_task eager_task_factory ensure_future gather get_event_loop get_running_loop iscoroutine "
    "iscoroutinefunction isfuture new_event_loop run run_coroutine_threadsafe set_event_loop shield sleep timeout "
    "timeout_at to_thread wait wait_for wrap_future AbstractEventLoop"
)
_LOGS = (
    "BASIC_FORMAT BufferingFormatter CRITICAL DEBUG ERROR FATAL Filter Filterer Formatter Handler INFO LogRecord Logger "
    "LoggerAdapter Manager NOTSET NullHandler PlaceHolder RootLogger StreamHandler WARN WARNING addLevelName "
    "captureWarnings critical currentframe debug disable error exception fatal getHandlerByName getHandlerNames "
    "getLevelName getLevelNamesMapping getLogRecordFactory getLogger getLoggerClass info lastResort log "
    "logMultiprocessing logProcesses logThreads makeLogRecord raiseExceptions root setLogRecordFactory setLoggerClass "
    "shutdown warn warning basicConfig"  # with a file name it is judged by the call
)
_SYSTEM = (
    "environ environb getenv getenvb putenv unsetenv sep altsep extsep pathsep linesep curdir pardir devnull defpath name "
    "fspath fsencode fsdecode PathLike urandom getrandom cpu_count process_cpu_count strerror error getcwd getcwdb times "
    "F_OK R_OK W_OK X_OK SEEK_SET SEEK_CUR SEEK_END O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_TRUNC O_APPEND "
    "supports_bytes_environ"
)
_PROCESSES = (
    "fork forkpty abort system popen kill killpg wait wait3 wait4 waitid waitpid nice getpriority setpriority getpid "
    "getppid getpgid getpgrp getsid setsid setpgid getuid geteuid getgid getegid getgroups getlogin setuid setgid seteuid "
    "setegid setgroups execl execle execlp execlpe execv execve execvp execvpe spawnl spawnle spawnlp spawnlpe spawnv spawnve "
    "spawnvp spawnvpe posix_spawn posix_spawnp sched_setaffinity sched_getaffinity sched_setscheduler sched_getscheduler "
    "register_at_fork _exit unshare setns pidfd_open umask getloadavg uname"
)
_DATABASE = (
    "Row Connection Cursor Blob Error Warning DatabaseError DataError IntegrityError InterfaceError InternalError "
    "NotSupportedError OperationalError ProgrammingError PARSE_DECLTYPES PARSE_COLNAMES register_adapter "
    "register_converter adapt sqlite_version sqlite_version_info apilevel paramstyle threadsafety Binary Date Time "
    "Timestamp DateFromTicks TimeFromTicks TimestampFromTicks complete_statement"
)

STANDARD = MappingProxyType[str, Known]({
    **{name: quiet_but() for name in _QUIET.split()},
    **{name: reaches_by(kind) for kind, names in _WHOLE.items() for name in names.split()},
    "builtins": quiet_but(files="open", library="exec eval __import__ __loader__ __spec__ __builtins__",
                          process="breakpoint input"),
    "argparse": quiet_but(files="FileType"),
    "asyncio": reaches_by(NETWORK, _TASKS, process="create_subprocess_exec create_subprocess_shell subprocess"),
    "bz2": reaches_by(FILES, "compress decompress BZ2Compressor BZ2Decompressor"),
    "codecs": quiet_but(files="open"),
    "concurrent": reaches_by(PROCESS, "futures"),
    "concurrent.futures": quiet_but(process="ProcessPoolExecutor process"),
    "configparser": reaches_by(FILES, "Error NoSectionError NoOptionError DuplicateSectionError ParsingError"),
    "email.utils": quiet_but(network="make_msgid"),
    "gzip": reaches_by(FILES, "compress decompress BadGzipFile"),
    "importlib": reaches_by(LIBRARY, "invalidate_caches"),
    "io": reaches_by(FILES, _STREAMS),
    "logging": reaches_by(FILES, _LOGS),
    "lzma": reaches_by(FILES, "compress decompress LZMACompressor LZMADecompressor LZMAError FORMAT_XZ FORMAT_ALONE "
                       "FORMAT_RAW FORMAT_AUTO CHECK_CRC32 CHECK_CRC64 CHECK_NONE CHECK_SHA256"),
    "os": reaches_by(FILES, _SYSTEM, process=_PROCESSES),
    "os.path": reaches_by(FILES, _PATHS),
    "ntpath": reaches_by(FILES, _PATHS),
    "posixpath": reaches_by(FILES, _PATHS),
    "pathlib": reaches_by(FILES, "PurePath PurePosixPath PureWindowsPath"),
    # reading a pickle calls what it names
    "pickle": quiet_but(library="load loads Unpickler _Unpickler _load _loads"),
    "platform": reaches_by(PROCESS, "system machine python_version python_version_tuple python_implementation"),
    "socket": reaches_by(NETWORK, "error timeout gaierror herror AF_INET AF_INET6 AF_UNIX SOCK_STREAM SOCK_DGRAM "
                         "inet_aton inet_ntoa inet_pton inet_ntop htons htonl ntohs ntohl"),
    "sqlite3": reaches_by(FILES, _DATABASE),
    "sys": quiet_but(library="modules path meta_path path_hooks path_importer_cache addaudithook"),
    "tarfile": reaches_by(FILES, "TarInfo TarError ReadError"),
    "tokenize": quiet_but(files="open"),
    "uuid": quiet_but(network="uuid1 getnode"),
    "wave": reaches_by(FILES, "Error"),
    "xml": reaches_by(FILES, "etree sax"),
    "xml.sax": reaches_by(FILES, "saxutils"),
    "xml.etree": reaches_by(FILES, "ElementTree"),
    "xml.etree.ElementTree": reaches_by(
        FILES, "Comment Element PI ParseError ProcessingInstruction QName SubElement TreeBuilder XML XMLID XMLParser "
        "XMLPullParser canonicalize dump fromstring fromstringlist indent iselement register_namespace tostring tostringlist",
    ),
    "zipfile": reaches_by(FILES, "ZipInfo BadZipFile LargeZipFile ZIP_STORED ZIP_DEFLATED ZIP_BZIP2 ZIP_LZMA"),
})  # fmt: skip
