# shellcheck shell=bash
# What the scripts share. Sourced, never run. Stdout is left to each script's own answer: all messages go to stderr.

# Where downloads and tools live, outside of the tree so that `git clean` and fresh clones keep them.
cache="${DATAFLUX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dataflux}"

if [[ -t 2 ]]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' red='' green='' plain=''
fi
me="${0##*/}"

# say MESSAGE...: one line of progress.
say() {
    printf '%s%s:%s %s\n' "$bold" "$me" "$plain" "$*" >&2
}

# die MESSAGE...: what is wrong and what to do about it, one argument a line; ends the script.
die() {
    printf '%s%s: error:%s %s\n' "$bold$red" "$me" "$plain" "$1" >&2
    shift
    local line
    for line in "$@"; do printf '    %s\n' "$line" >&2; done
    exit 1
}

# need PACKAGE COMMAND...: makes sure that the command succeeds, by installing a Debian package where it does not.
need() {
    local package="$1"
    shift
    if "$@" >/dev/null 2>&1; then return; fi
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        die "\`$*\` fails" "Install it; on Debian or Ubuntu: sudo apt-get install $package"
    fi
    say "installing $package"
    if ! apt-get install --yes --no-install-recommends "$package" >&2; then
        # The package lists may be missing or out of date.
        apt-get update >&2 && apt-get install --yes --no-install-recommends "$package" >&2
    fi
    "$@" >/dev/null 2>&1 || die "\`$*\` fails even with $package installed" "Run it by hand to see why."
}

# need_python: a python3 that has pip and can make virtual environments.
need_python() {
    need python3 python3 --version
    need python3-pip python3 -m pip --version
    need python3-venv python3 -c 'import ensurepip, venv'
}

# need_cargo: a Rust tool chain; which one is in Cargo.toml.
need_cargo() {
    command -v cargo >/dev/null || PATH="$PATH:$HOME/.cargo/bin"
    command -v cargo >/dev/null ||
        die 'there is no cargo' "Install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer: rustup.rs"
}

# need_compilers: what builds the C and C++ that crates bring with them: torch-sys and ring, and libjpeg-turbo of
# turbojpeg-sys, which wants cmake and, for its SIMD code on x86, nasm.
need_compilers() {
    need g++ g++ --version
    need cmake cmake --version
    if [[ "$(uname -m)" == x86_64 ]]; then need nasm nasm --version; fi
}

# work_in NAME: makes a temporary folder `$work` beside `$cache/NAME`, so that a finished one can be renamed into place,
# and has it removed when the script ends, however it ends.
work_in() {
    mkdir -p "$cache" || die "cannot make the cache folder $cache" "Set DATAFLUX_CACHE to a folder you can write to."
    work="$(mktemp -d "$cache/.$1.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
}

# keep FOLDER NAME: renames the finished folder to `$cache/NAME`. Where another run was faster, its folder stays.
keep() {
    mv -T "$1" "$cache/$2" 2>/dev/null || [[ -d "$cache/$2" ]] || die "cannot rename $1 to $cache/$2"
}

# need_tool CRATE VERSION WHEEL SHA256: has the command of a crate in the cache, and its path in `tool`. On Linux on x86-64
# it comes from a wheel of that version, in seconds; elsewhere it is built from the crate, in minutes.
need_tool() {
    local crate="$1" version="$2" wheel="$3" sha256="$4" folder="$1-$2"
    tool="$cache/$folder/bin/$crate"
    if [[ -x "$tool" ]]; then return; fi
    need_python
    say "installing $crate $version"
    work_in "$folder"
    mkdir -p "$work/made/bin"
    printf '%s==%s --hash=sha256:%s\n' "$wheel" "$version" "$sha256" >"$work/wheels.txt"
    if [[ "$(uname -sm)" == 'Linux x86_64' ]] &&
        python3 -m pip download --quiet --no-deps --no-cache-dir --disable-pip-version-check --only-binary=:all: \
            --require-hashes --requirement "$work/wheels.txt" --dest "$work/wheels" >&2; then
        python3 - "$work/wheels" "$work/made/bin/$crate" <<'END' || return
import pathlib, sys, zipfile

(wheel,) = pathlib.Path(sys.argv[1]).glob("*.whl")
command = pathlib.Path(sys.argv[2])
with zipfile.ZipFile(wheel) as archive:
    (name,) = [name for name in archive.namelist() if name.endswith(f"/scripts/{command.name}")]
    command.write_bytes(archive.read(name))
END
        chmod +x "$work/made/bin/$crate" || return
    else
        env -u CARGO_TARGET_DIR cargo install "$crate" --locked --version "$version" --root "$work/made" >&2 || return
    fi
    "$work/made/bin/$crate" --version >&2 || return
    keep "$work/made" "$folder"
    rm -rf "$work"
}

# stage NAME COMMAND...: runs one step with its output in a log, and prints one line on stdout with its time. A failure
# shows what of the log matters, and is noted in `outcome`, not fatal. A COMMAND that is a function runs here, without
# `set -e`; one that may `die` needs a subshell as its body, or its message stays in the log; and its variables must be
# its own (bash shows it this function's).
logs="${CARGO_TARGET_DIR:-target}/logs"
stages=()
declare -A outcome=() seconds=() log=()
stage() {
    local name="$1" started="${EPOCHREALTIME/[.,]/}" colour="$green" tenths
    shift
    stages+=("$name")
    mkdir -p "$logs"
    log[$name]="$logs/${name//[^A-Za-z0-9]/-}.log"
    outcome[$name]=ok
    if [[ -t 1 ]]; then printf '...     %s' "$name"; fi
    "$@" >"${log[$name]}" 2>&1 </dev/null || outcome[$name]=FAILED
    tenths=$(((${EPOCHREALTIME/[.,]/} - started) / 100000))
    seconds[$name]="$((tenths / 10)).$((tenths % 10))"
    if [[ -t 1 ]]; then printf '\r'; fi
    if [[ ${outcome[$name]} != ok ]]; then colour="$red"; fi
    printf '%s%-6s%s  %-42s %8s s\n' "$colour" "${outcome[$name]}" "$plain" "$name" "${seconds[$name]}"
    if [[ ${outcome[$name]} != ok ]]; then
        # What failed first may be far from the end.
        printf '%s\n' "        from ${log[$name]}:"
        if (($(wc -l <"${log[$name]}") <= 60)); then
            cat "${log[$name]}"
        else
            grep --extended-regexp --after-context=12 --max-count=6 \
                '^(error|warning)(:|\[)|^(FAIL|ERROR):|panicked at' "${log[$name]}" | head -n 80
            echo ...
            tail -n 20 "${log[$name]}"
        fi | sed 's/^/        | /' || true
    fi
}

# provide SCRIPT: runs scripts/libtorch or scripts/foreign and takes on the variables that it prints.
provide() {
    local exports
    exports="$("$1")" || return
    printf '%s\n' "$exports"
    eval "$exports"
}
