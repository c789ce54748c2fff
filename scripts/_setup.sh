# Sourced by the commands beside it: finds Python, makes a virtual environment of the checkout's own, installs the
# locked requirements and the package into it. Quick when nothing changed.
#
# Offers: say, die, root, and `setup_environment NAME LOCK...`, which sets $venv, and
# `setup_machines`, which sets $kernel.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
oldest="3.11"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
unset PYTHONDONTWRITEBYTECODE # else every process compiles again what is not kept
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# The real interpreter behind a name (a version manager's shim answers for versions that it does not have).
real_python() {
    "$1" -I -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null
}

# find_python [VERSION]: $PYTHON wins; a version such as 3.13 is looked for by name, then in pyenv's folder.
find_python() {
    local wanted=${1:-} candidate found
    local -a candidates=()
    if [[ -n $wanted ]]; then
        candidates=("python$wanted" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$wanted"*/bin/python)
        [[ $wanted == */* ]] && candidates=("$wanted")
    elif [[ -n ${PYTHON:-} ]]; then
        candidates=("$PYTHON")
    else
        candidates=(python3 /usr/bin/python3 python3.11 python3.12 python3.13)
    fi
    for candidate in "${candidates[@]}"; do
        if found=$(real_python "$candidate") && [[ -n $found ]]; then
            printf '%s\n' "$found"
            return 0
        fi
    done
    return 1
}

may_install_packages() { [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; }

# Debian packages, quietly, after one update of the lists; its own log is shown only when it fails.
install_packages() {
    local log
    log=$(mktemp)
    say "installing Debian packages: $*"
    if {
        { [[ -n ${apt_updated:-} ]] || DEBIAN_FRONTEND=noninteractive apt-get -q update; } &&
            apt_updated=1 &&
            DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@"
    } >"$log" 2>&1 </dev/null; then
        rm -f "$log"
        return 0
    fi
    tail -n 20 "$log" >&2
    rm -f "$log"
    return 1
}

# What virtual machines are made with, and Debian's cloud kernel: sets $kernel, a folder that it is unpacked in.
setup_machines() {
    local tool work package
    for tool in qemu-system-x86_64 busybox cpio mke2fs; do
        PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || {
            may_install_packages && install_packages qemu-system-x86 busybox-static cpio e2fsprogs || die "$tool is missing"
            break
        }
    done
    kernel=$root/.venv-kernel
    [[ -d $kernel/boot ]] && return 0
    say "fetching Debian's cloud kernel"
    work=$(mktemp -d)
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [[ -n $package ]] || die "apt knows no linux-image-cloud-amd64: run apt-get update"
    (cd "$work" && apt-get -q download "$package" >/dev/null 2>&1) || die "$package cannot be fetched"
    dpkg-deb -x "$work"/*.deb "$work/kernel"
    mv "$work/kernel" "$kernel"
    rm -rf "$work"
}

# What the disks of virtual machines are made with; the machines themselves are tried by scripts/machines.
setup_disks() {
    local path=$PATH:/usr/sbin:/sbin
    PATH=$path command -v busybox >/dev/null && PATH=$path command -v mke2fs >/dev/null && return 0
    may_install_packages && install_packages busybox-static e2fsprogs && return 0
    echo "   (no busybox or mke2fs: the tests of disks for virtual machines are skipped)" >&2
}

has_venv() { "$1" -I -c 'import ensurepip, venv' >/dev/null 2>&1; }

# The browser that tests of the arena's page drive; without a window system of its own it takes a quarter less CPU.
setup_browser() {
    command -v chromium-headless-shell >/dev/null && return 0
    may_install_packages && install_packages chromium-headless-shell fonts-dejavu-core && return 0
    command -v chromium >/dev/null && return 0
    echo "   (no chromium: the tests in a browser are skipped)" >&2
}

# What checks the C of shared-memory channels: an instruction counter, a model checker, a fuzzer.
setup_native_tools() {
    command -v valgrind >/dev/null && command -v spin >/dev/null && command -v clang >/dev/null &&
        [[ -e $(clang -print-file-name=libclang_rt.fuzzer-"$(uname -m)".a) || -e $(clang -print-runtime-dir)/libclang_rt.fuzzer-$(uname -m).a ]] && return 0
    may_install_packages && install_packages valgrind spin clang libclang-rt-dev && return 0
    echo "   (no valgrind, spin or clang: some tests of the C extension are skipped)" >&2
}

# What makes containers of shards. They live in /usr/sbin or /usr/bin, which not every path has.
setup_containers() {
    local path=$PATH:/usr/sbin:/sbin
    PATH=$path command -v runc >/dev/null && PATH=$path command -v crun >/dev/null && PATH=$path command -v dockerd >/dev/null && return 0
    may_install_packages && RUNLEVEL=1 install_packages runc crun docker.io && return 0 # no service is started
    echo "   (no runc, crun or dockerd: the tests of shards in containers are skipped)" >&2
}

can_compile() {
    { command -v "${CC:-cc}" || command -v gcc; } >/dev/null 2>&1 &&
        "$1" -I -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

is_debian_python() { [[ $(readlink -f "$1") == /usr/bin/python3* ]]; }

# What the installed environment was made from: another sum means installing again.
inputs_sum() {
    (
        cd "$root"
        { printf '%s\n' "$@"; cat pyproject.toml setup.py; find src -name '*.[ch]' -print0 | sort -z | xargs -0 -r cat; } |
            sha256sum | cut -d' ' -f1
    )
}

# setup_environment NAME LOCK...: $python must be set; makes .venv-NAME from requirements/LOCK.txt.
setup_environment() {
    local name=$1 lock stamp sum compiler=no
    shift
    local -a locks=() arguments=()
    for lock in build "$@"; do
        locks+=("$root/requirements/$lock.txt")
        arguments+=(--requirement "$root/requirements/$lock.txt")
    done
    [[ -w $root ]] || die "cannot write in $root; clone the repository to a place of your own"
    venv=$root/.venv-$name
    stamp=$venv/.shardwright-stamp

    # One at a time: a second run waits for the first to finish installing.
    exec 9>"$root/.venv-$name.lock"
    flock 9

    if ! can_compile "$python" && may_install_packages && is_debian_python "$python"; then
        install_packages gcc libc6-dev python3-dev ||
            echo "   (no compiler: the extension is not built; channels do not use it yet)" >&2
    fi
    can_compile "$python" && compiler=yes
    sum=$(inputs_sum "$python" "$("$python" -V)" "$compiler" "$(cat "${locks[@]}")")

    if [[ -f $stamp && $(cat "$stamp") == "$sum" ]] &&
        { [[ $compiler == no ]] || { compgen -G "$root/src/shardwright/transport/shm/_ring*.so" >/dev/null &&
            compgen -G "$root/src/shardwright/transport/codec/_native*.so" >/dev/null; }; }; then
        exec 9>&-
        return 0
    fi

    if ! has_venv "$python"; then
        local package=python3-venv
        if ! { may_install_packages && is_debian_python "$python" && install_packages "$package" && has_venv "$python"; }; then
            die "$python has no working 'venv'; install it (Debian: apt-get install $package), or set PYTHON to another interpreter"
        fi
    fi
    say "setting up $venv with $("$python" -V)"
    rm -rf "$venv"
    "$python" -m venv "$venv" || die "could not make a virtual environment in $venv"
    "$venv/bin/python" -m pip install --quiet --require-hashes "${arguments[@]}" || die "could not install the locked requirements"
    "$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable "$root" || die "could not install shardwright"
    if [[ $compiler == no ]]; then
        echo "   (no C compiler or no Python.h: the extension is not built; channels do not use it yet)"
    fi
    printf '%s\n' "$sum" >"$stamp"
    exec 9>&-
}

# The README texts that the press room prints in the tests: metadata of the packages of requirements/corpus.txt, in
# .venv-corpus. Nothing there can be imported.
setup_corpus() {
    local folder=$root/.venv-corpus lock=$root/requirements/corpus.txt
    if [[ -f $folder/.lock ]] && cmp -s "$folder/.lock" "$lock"; then
        return 0
    fi
    say "fetching README texts into $folder"
    rm -rf "$folder"
    "$venv/bin/python" -m pip install -qq --no-deps --require-hashes --only-binary :all: --target "$folder" \
        --requirement "$lock" || die "could not fetch the README texts"
    find "$folder" -mindepth 1 -maxdepth 1 ! -name '*.dist-info' -exec rm -rf {} +
    rm -f "$folder"/*/entry_points.txt # a plugin found here could not be loaded
    cp "$lock" "$folder/.lock"
}

# Packages that tests read to count what analysis finds: exact versions, without what they depend on.
setup_analysed() {
    local folder=$root/.venv-analysed lock=$root/requirements/analysed.txt
    if [[ -f $folder/.lock ]] && cmp -s "$folder/.lock" "$lock"; then
        return 0
    fi
    say "fetching packages to analyse into $folder"
    rm -rf "$folder"
    "$venv/bin/python" -m pip install -qq --no-deps --require-hashes --only-binary :all: --target "$folder" \
        --requirement "$lock" || die "could not fetch the packages to analyse"
    rm -rf "$folder/bin" "$folder"/*.dist-info # no plugin is found here, nothing is run
    cp "$lock" "$folder/.lock"
}
