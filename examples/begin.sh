# What every `run` begins with. It is sourced; `here` is the example's directory, `$1` where to work.
set -eu
work=${1:-$(mktemp -d)}
root=$(cd "$here/../.." && pwd)
PATH="$root/.venv/bin:$PATH" # where `make demo` puts the holdfast command
export PATH HOLDFAST_DOCUMENTS="$work/holdfast" HOLDFAST_STATE="$work/state"

say() { printf '\n# %s\n' "$*"; }

# Print a command, run it, and go on whatever it answers: 10 means changes, 1 a job that failed.
try() {
    code=0
    printf '$ %s\n' "$*"
    "$@" || code=$?
    [ $code = 0 ] || printf '(exit %s)\n' "$code"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# The example's documents into the tree, with @WORK@ and @PORT1@ to @PORT4@ filled in.
documents() {
    mkdir -p "$work/holdfast" "$work/hosts"
    sed -e "s|@WORK@|$work|g" -e "s|@PORT1@|$(free_port)|g" -e "s|@PORT2@|$(free_port)|g" \
        -e "s|@PORT3@|$(free_port)|g" -e "s|@PORT4@|$(free_port)|g" "$here/fleet.yaml" > "$work/holdfast/fleet.yaml"
}

# Edit the tree, as a person would: edit SED-EXPRESSION
edit() {
    sed "$1" "$work/holdfast/fleet.yaml" > "$work/edited"
    mv "$work/edited" "$work/holdfast/fleet.yaml"
}

# Pack the demo's little shop as an artifact and print its image: packed VERSION
packed() {
    mkdir -p "$work/build/$1"
    cp "$root/examples/demo/app/serve.py" "$work/build/$1/"
    echo "$1" > "$work/build/$1/release"
    echo "example.invalid/shop@$(holdfast artifact pack "$work/build/$1" "$work/artifacts" | grep -o 'sha256:[0-9a-f]*')"
}

# Ask a target's shop over HTTP: shop NAME, for the target's port as it stands in the documents.
shop() {
    port=$(sed -n "/^name: $1\$/,/^---/s/.*PORT: \"\([0-9]*\)\".*/\1/p" "$work/holdfast/fleet.yaml")
    python3 -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:$port/').read().decode().strip())"
}

# End what runs: the workload of each placement, then its supervisor, by process id.
end() {
    for place in "$work"/hosts/*/*/*/supervisor; do
        [ -e "$place/pid" ] || continue
        python3 "$root/drivers/process/host.py" ctl "${place%/supervisor}" stop
        supervisor=$(sed -n 's|.*"supervisor": "\([0-9]*\):.*|\1|p' "$place/pid")
        kill "$supervisor" 2> /dev/null || true
    done
}
trap end EXIT
