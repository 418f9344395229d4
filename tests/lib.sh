# What the scripts beside this one share: environments that are made once, and servers that run as
# long as the script. A bash script sources it. Variables it reads:
#
#   RERANKER_BIN    the server                    default target/debug/reranker
#   TESTS_CACHE     where the environments are    default target/tests
#   PYTHON          what they are made with       default python3.11
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
server=${RERANKER_BIN:-$root/target/debug/reranker}
cache=${TESTS_CACHE:-$root/target/tests}
python=${PYTHON:-python3.11}
uv=uv==0.13.9

fail() {
    echo "$0: $*" >&2
    exit 1
}

# Fails unless all these programs are there.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "$tool is missing"
    done
}

[ -x "$server" ] || fail "no server at $server: cargo build, or set RERANKER_BIN"

# A folder in the cache named after what is in the files that it is made from.
place() { echo "$cache/$1-$(cat "${@:2}" | sha256sum | cut -c1-12)"; }

# Makes `folder` with a command that gets its name; what was left half made is made anew.
once() {
    local folder=$1
    [ ! -e "$folder/.complete" ] || return 0
    echo "making $folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    "${@:2}" "$folder"
    touch "$folder/.complete"
}

make_uv() {
    "$python" -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check "$uv"
}

# A virtual environment from a folder's requirements.txt.
make_python() {
    local installer="$cache/${uv/==/-}"
    once "$installer" make_uv
    "$python" -m venv --without-pip "$2"
    "$installer/bin/uv" pip install --quiet --no-deps --python "$2/bin/python" -r "$1/requirements.txt"
    "$installer/bin/uv" pip check --quiet --python "$2/bin/python"
}

# The packages of a folder's package-lock.json.
make_node() {
    cp "$1/package.json" "$1/package-lock.json" "$2"
    (cd "$2" && npm ci --silent --ignore-scripts --no-audit --no-fund)
}

work=$(mktemp -d)
servers=()
stop() {
    [ ${#servers[@]} -eq 0 ] || kill "${servers[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap stop EXIT

# start NAME [VARIABLE=VALUE...]: a server on a free port, with nothing of this shell's environment,
# on the demo model unless told otherwise. Leaves its address in `address`.
start() {
    local log="$work/$1.log"
    env -i HOME=/nonexistent RERANKER_MODEL=demo DEVICE=cpu RERANKER_HOST=127.0.0.1 RERANKER_PORT=0 \
        "${@:2}" "$server" serve 2>"$log" >&2 &
    servers+=($!)
    for _ in $(seq 600); do
        if grep -q ' ready ' "$log"; then
            address=http://$(grep -om1 'address=[^ ]*' "$log" | cut -d= -f2)
            return
        fi
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    cat "$log" >&2
    fail "the server did not get ready"
}
