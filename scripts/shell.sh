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

# passed / failed WORD...: the words, in green or red.
passed() { printf '%s%s%s' "$green" "$*" "$plain"; }
failed() { printf '%s%s%s' "$red" "$*" "$plain"; }

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
