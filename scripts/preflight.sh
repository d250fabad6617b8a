#!/bin/sh
# What `make up` looks at before it starts anything: Docker, every setting, ports, the experiment, memory.
#
#   sh scripts/preflight.sh engine              Docker and Compose alone
#   sh scripts/preflight.sh up WORKERS [SLOW]   all of it, for so many workers, and so many of the profile `slow`
#
# Each fault is one line on standard error that names the setting, what was found and what to do; then the exit code
# is 1 and nothing has been started. POSIX sh, awk, sed and docker: whoever runs `make up` needs no Python.
# PROC is where the kernel tells about memory, ports and addresses (another folder in tests).
set -u
LC_ALL=C
export LC_ALL
PROC=${PROC:-/proc}
WORKER_NEEDS=600m # what a worker with the small MNIST model comes to (.env.example says so too)
faults=0

fault() {
  echo "make: $*" >&2
  faults=$((faults + 1))
}
note() { echo "make: note: $*" >&2; }
give_up() {
  fault "$@"
  exit 1
}

# --- Docker ----------------------------------------------------------------------------------------------------------

# at_least VERSION WANTED: both as MAJOR.MINOR…
at_least() {
  awk -v have="${1#v}" -v want="$2" 'BEGIN {
    split(have, h, /[^0-9]+/); split(want, w, ".")
    exit !(h[1] + 0 > w[1] + 0 || (h[1] + 0 == w[1] + 0 && h[2] + 0 >= w[2] + 0))
  }'
}

engine() {
  command -v docker >/dev/null 2>&1 || give_up "docker: there is no such command here: install Docker Engine 20.10 or" \
    "later with its compose plugin, or Docker Desktop; make demo needs neither"
  if ! told=$(docker info --format '{{.ServerVersion}} {{.MemTotal}} {{.NCPU}}' 2>&1); then
    case $told in
      *"permission denied"*) give_up "docker: this user may not speak to the engine: run sudo usermod -aG docker" \
        "$(id -un), then log in again; make demo needs no Docker" ;;
      *) give_up "docker: no engine answers${DOCKER_HOST:+ at DOCKER_HOST=$DOCKER_HOST}: start it (sudo systemctl start" \
        "docker, or Docker Desktop); make demo needs none; it says: $(echo "$told" | tail -n 1)" ;;
    esac
  fi
  # shellcheck disable=SC2086 # three words
  set -- $(echo "$told" | tail -n 1)
  engine_version=$1 engine_memory=${2:-0} engine_cpus=${3:-0}
  at_least "$engine_version" 20.10 ||
    fault "docker: this engine is $engine_version: install Docker Engine 20.10 or later"
  compose_version=$(docker compose version --short 2>/dev/null) ||
    give_up "docker compose: Docker has no compose plugin here: install Docker Compose 2.26 or later" \
      "(docker-compose with a hyphen is the old one)"
  at_least "$compose_version" 2.26 ||
    fault "docker compose: this is $compose_version: install Docker Compose 2.26 or later"
}

# --- settings --------------------------------------------------------------------------------------------------------

# The lines of .env as LINE NAME=VALUE, without quotes and remarks, or as LINE !TEXT where they are none.
read_env() {
  [ -f .env ] || return 0
  awk '{
    sub(/\r$/, ""); sub(/^[ \t]+/, ""); sub(/^export[ \t]+/, "")
    if ($0 == "" || /^#/) next
    if (!match($0, /^[A-Za-z_][A-Za-z0-9_.]*[ \t]*=/)) { print NR, "!" $0; next }
    name = substr($0, 1, RLENGTH - 1); sub(/[ \t]+$/, "", name)
    value = substr($0, RLENGTH + 1); sub(/^[ \t]+/, "", value)
    quote = substr(value, 1, 1)
    if (quote == "\"" || quote == "\047") { value = substr(value, 2); sub(quote ".*", "", value) }
    else { if (value ~ /^#/) value = ""; sub(/[ \t]+#.*/, "", value); sub(/[ \t]+$/, "", value) }
    print NR, name "=" value
  }' .env
}

# What `docker compose` will take: the environment, else .env, else nothing (then the default holds). Sets value, where.
look_up() {
  if eval "[ -n \"\${$1+set}\" ]"; then
    eval "value=\${$1}"
    where="$1=$value (in the environment)"
    return
  fi
  value='' where=''
  case $env_lines in
    *" $1="*)
      found=$(printf '%s\n' "$env_lines" | sed -n "s/^\([0-9]*\) $1=/\1 /p" | tail -n 1)
      value=${found#* }
      where="$1=$value (.env, line ${found%% *})"
      ;;
  esac
}

default_of() { sed -n "s/^#$1=//p" .env.example | head -n 1; }

# of NAME: its value, or its default where that is empty
of() {
  look_up "$1"
  [ -n "$value" ] || value=$(default_of "$1")
  echo "$value"
}

matches() { printf '%s\n' "$1" | grep -Eq "^($2)\$"; }

# nearest WORD: of the words on standard input, the one that is closest, if it is close (edit distance)
nearest() {
  awk -v word="$1" '
    function least(a, b) { return a < b ? a : b }
    function distance(a, b,   i, j, previous, row, up) {
      for (j = 0; j <= length(b); j++) row[j] = j
      for (i = 1; i <= length(a); i++) {
        previous = row[0]; row[0] = i
        for (j = 1; j <= length(b); j++) {
          up = row[j]
          row[j] = least(least(row[j], row[j - 1]) + 1, previous + (substr(a, i, 1) != substr(b, j, 1)))
          previous = up
        }
      }
      return row[length(b)]
    }
    BEGIN { best = 1 + (length(word) > 5 ? int(length(word) / 3) : 1) }
    { d = distance(tolower(word), tolower($0)); if (d < best) { best = d; near = $0 } }
    END { print near }'
}

# bytes SIZE: as Docker reads it (1024 a step), or nothing
bytes() {
  matches "$1" '[0-9]+(\.[0-9]+)? ?([kKmMgGtT]?[iI]?[bB]?)' || return 0
  echo "$1" | awk '{
    unit = tolower($0); gsub(/[0-9. ib]/, "", unit)
    printf "%.0f", $0 * 1024 ^ index("kmgt", unit == "" ? "-" : unit)
  }'
}

gb() { awk -v bytes="$1" 'BEGIN { printf "%.1f GB", bytes / 2 ^ 30 }'; }

check_memory() { # NAME, least that works
  size=$(bytes "$value")
  if [ -z "$size" ]; then
    fault "$where: a size is a number with k, m or g, as in $1=$(default_of "$1")"
  elif [ "$size" -lt "$(bytes "$2")" ]; then
    fault "$where: too little to start with: give $2 or more"
  fi
}

check_cpus() { # NAME
  if ! matches "$value" '[0-9]+(\.[0-9]*)?|\.[0-9]+'; then
    fault "$where: processors are a number, as in $1=$(default_of "$1")"
  elif ! awk -v cpus="$value" -v most="$engine_cpus" 'BEGIN { exit !(cpus >= 0.01 && cpus <= most) }'; then
    fault "$where: this machine has $engine_cpus processors: give 0.01 to $engine_cpus"
  fi
}

check_address() { # NAME
  if [ "$value" = localhost ]; then
    fault "$where: write the address, 127.0.0.1"
  elif matches "$value" '\[[0-9a-fA-F:.]+\]'; then
    return 0
  elif matches "$value" '[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*'; then
    fault "$where: an IPv6 address goes in brackets: $1=[$value]"
  elif ! printf '%s\n' "$value" | awk -F. 'NF != 4 { exit 1 } { for (i = 1; i <= 4; i++) if ($i !~ /^[0-9]+$/ || $i > 255) exit 1 }'; then
    fault "$where: is no address: $1=127.0.0.1 is this machine alone, $1=0.0.0.0 every network it is in"
  elif [ "$value" != 0.0.0.0 ] && [ "${value#127.}" = "$value" ] && on_this_machine && [ -r "$PROC/net/fib_trie" ] &&
    ! grep -Eq "[^0-9.]$(echo "$value" | sed 's/\./\\./g')\$" "$PROC/net/fib_trie"; then
    fault "$where: is not an address of this machine: $(local_addresses | tr '\n' ' ')are"
  fi
}

local_addresses() { awk '/\|--/ { last = $2 } /host LOCAL/ { print last }' "$PROC/net/fib_trie" | sort -u; }

check_experiment() {
  inside=${value#./}
  inside=${inside#/lab/}
  there=$(ls experiments/ | grep '\.toml$')
  if [ "${inside#experiments/}" = "$inside" ]; then
    fault "$where: the aggregator sees the folder experiments/ alone: put the file there and write" \
      "EXPERIMENT=experiments/$(basename "$value"), or EXPERIMENT= for none"
  elif [ ! -f "$inside" ]; then
    near=$(echo "$there" | nearest "${inside#experiments/}")
    fault "$where: there is no such file${near:+ (did you mean experiments/$near?)}; in experiments/ are" \
      "$(echo "$there" | tr '\n' ' ')"
  else
    check_task "$inside"
  fi
}

check_task() { # experiment file: is the task of one's own that it names there?
  task=$(sed -n 's/^task[ \t]*=[ \t]*["'\'']\([A-Za-z0-9_]*\):.*/\1/p' "$1" | head -n 1)
  [ -n "$task" ] || return 0
  tasks=$(of TASKS)
  [ -f "$tasks/$task.py" ] || fault "$1: task = \"$task:…\", but there is no $tasks/$task.py: put the file there, or name" \
    "its folder with TASKS"
}

check_start_workers() {
  if ! matches "$value" '0*[1-9][0-9]{0,3}'; then
    fault "$where: how many workers the experiment waits for, a whole number from 1, as in START_WORKERS=1"
  elif [ "$value" -gt $((workers + slow)) ]; then
    note "$where: $((workers + slow)) workers are started, so the experiment waits until others join"
  fi
}

check_keep_points() { # InfluxQL; points are kept by the day, so a day is the least
  if ! matches "$value" 'INF|inf|0s|([0-9]+(ms|s|m|h|d|w))+'; then
    fault "$where: how long points are kept, as in KEEP_POINTS=90d, 12w or INF"
  elif ! echo "$value" | awk '/^(INF|inf|0s)$/ { exit 0 } {
    while (match($0, /^[0-9]+(ms|[smhdw])/)) {
      unit = substr($0, RLENGTH, 1); if (substr($0, RLENGTH - 1, 2) == "ms") unit = "ms"
      total += $0 * (unit == "ms" ? .001 : unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : unit == "d" ? 86400 : 604800)
      $0 = substr($0, RLENGTH + 1)
    }
    exit total < 86400 }'; then
    fault "$where: points are kept for a day at least: KEEP_POINTS=1d"
  fi
}

check_setting() { # NAME, whose value is not empty
  case $1 in
    PORT | GRAFANA_PORT) { matches "$value" '[0-9]{1,5}' && [ "$value" -ge 1 ] && [ "$value" -le 65535 ]; } ||
      fault "$where: a port is a whole number from 1 to 65535, as in $1=$(default_of "$1")" ;;
    BIND | GRAFANA_BIND) check_address "$1" ;;
    WORKER_CPUS | SLOW_WORKER_CPUS) check_cpus "$1" ;;
    WORKER_MEMORY | SLOW_WORKER_MEMORY) check_memory "$1" "$WORKER_NEEDS" ;;
    AGGREGATOR_MEMORY | TELEGRAF_MEMORY) check_memory "$1" 128m ;;
    INFLUXDB_MEMORY) check_memory "$1" 256m ;;
    GRAFANA_MEMORY) check_memory "$1" 512m ;;
    EXPERIMENT) check_experiment ;;
    START_WORKERS) check_start_workers ;;
    REPORTS) [ -d "$value" ] || [ "$value" = /dev/null ] ||
      fault "$where: there is no such folder: lab run --url writes its reports into ./runs, which is there once it has" ;;
    TASKS | DATASETS) [ -d "$value" ] || fault "$where: there is no such folder: make it, or leave $1=$(default_of "$1")" ;;
    GRAFANA_THEME) matches "$value" 'light|dark|system' || fault "$where: is light, dark or system" ;;
    ALLOW_PLAIN_HTTP) matches "$value" 'true|false' || fault "$where: is true or false" ;;
    NODE_NAME) matches "$value" '[A-Za-z0-9._-]{1,100}' ||
      fault "$where: a name is letters, digits, dots, hyphens and underscores, as in NODE_NAME=server" ;;
    BOARD) [ -f "monitoring/telegraf/boards/$value.conf" ] ||
      fault "$where: is one of $(ls monitoring/telegraf/boards | sed 's/\.conf$//' | tr '\n' ' ')" ;;
    TELEMETRY_URL) matches "$value" 'https?://[^ /]+(/[^ ]*)?' ||
      fault "$where: is an address like $(default_of "$1"), or TELEMETRY_URL= for none" ;;
    KEEP_POINTS) check_keep_points ;;
    *_IMAGE) matches "$value" '[a-z0-9][a-zA-Z0-9_./:@-]*' ||
      fault "$where: an image is named in small letters, as in $1=$(default_of "$1")" ;;
  esac
}

# What Docker and Compose themselves take from .env, and everybody's proxies.
foreign() { matches "$1" '(COMPOSE|DOCKER|BUILDKIT|BUILDX)_[A-Z_]+|(HTTP|HTTPS|NO|ALL|http|https|no|all)_(PROXY|proxy)'; }

settings() {
  env_lines=$(read_env)
  known=$(sed -n 's/^#\([A-Z_]*\)=.*/\1/p' .env.example)
  old_ifs=$IFS
  IFS='
'
  for line in $env_lines; do
    number=${line%% *} text=${line#* }
    name=${text%%=*}
    if [ "${text#!}" != "$text" ]; then
      fault ".env, line $number: ${text#!}: is not NAME=value; a remark begins with #"
    elif ! echo "$known" | grep -qx "$name" && ! foreign "$name"; then
      near=$(echo "$known" | nearest "$name")
      if [ -n "$near" ]; then
        fault ".env, line $number: $name: there is no such setting (did you mean $near?); .env.example lists them all"
      else
        note ".env, line $number: $name: the lab has no such setting; .env.example lists them all"
      fi
    fi
  done
  IFS=$old_ifs
  for name in $known; do
    look_up "$name"
    case $value in
      '' | *'$'*) ;; # the default, or something that only Compose can fill in
      *) check_setting "$name" ;;
    esac
  done
}

# The files that Compose puts together, where .env names them, and what they need beside them.
files() {
  look_up COMPOSE_FILE
  old_ifs=$IFS
  IFS=:
  for file in $value; do
    [ -f "$file" ] || fault "$where: there is no $file here; a lab is compose.yaml, with compose.tls.yaml or" \
      "compose.gpu.yaml after it"
  done
  IFS=$old_ifs
  case :$value: in
    *:compose.tls.yaml:*) [ -f certs/server.pem ] ||
      fault "$where: TLS wants certificates, and there is no certs/server.pem: run make certs" ;;
    *) case $(of BIND),$(of ALLOW_PLAIN_HTTP) in
      127.*,* | '[::1]',* | *,true) ;;
      *) fault "BIND=$(of BIND): beyond this machine tokens and weights want TLS: run make certs and write" \
        "COMPOSE_FILE=compose.yaml:compose.tls.yaml into .env (or ALLOW_PLAIN_HTTP=true, if you trust that network)" ;;
    esac ;;
  esac
}

# --- ports -----------------------------------------------------------------------------------------------------------

on_this_machine() {
  case ${DOCKER_HOST:-unix} in unix*) ;; *) return 1 ;; esac
}

# listens PORT ADDRESS: does a program on this machine hold it already?
listens() {
  if [ -r "$PROC/net/tcp" ]; then
    cat "$PROC/net/tcp" "$PROC/net/tcp6" 2>/dev/null | awk -v port="$1" -v address="$2" '
      BEGIN { split(address, part, "."); wanted = sprintf("%02X%02X%02X%02X", part[4], part[3], part[2], part[1]); hex = sprintf("%04X", port) }
      $4 == "0A" { split($2, local, ":")
        if (local[2] == hex && (local[1] ~ /^0+$/ || wanted == "00000000" || substr(local[1], length(local[1]) - 7) == wanted)) found = 1 }
      END { exit !found }'
  else
    command -v lsof >/dev/null 2>&1 && lsof -nP -iTCP:"$1" -sTCP:LISTEN >/dev/null 2>&1
  fi
}

check_port() { # NAME, name of its address, what it is for
  port=$(of "$1") address=$(of "$2")
  holders=$(docker ps --filter "publish=$port" --format '{{.Label "com.docker.compose.project"}} {{.Names}}')
  echo "$holders" | grep -q "^$project " && return 0 # this lab, up already
  by=$(echo "$holders" | awk 'NF { print "the container " $NF; exit }')
  if [ -n "$by" ] || { on_this_machine && listens "$port" "$address"; }; then
    free=$((port + 1))
    while [ "$free" -lt 65535 ] && listens "$free" "$address"; do free=$((free + 1)); done
    fault "$1=$port: $address:$port, where $3, is in use by ${by:-another program}: stop that, or write $1=$free into .env"
  fi
}

ports() {
  check_port PORT BIND "the aggregator listens"
  check_port GRAFANA_PORT GRAFANA_BIND "Grafana listens"
  [ "$(of PORT)" != "$(of GRAFANA_PORT)" ] ||
    fault "GRAFANA_PORT=$(of GRAFANA_PORT): is the aggregator's PORT too: give one of them another number"
}

# --- memory ----------------------------------------------------------------------------------------------------------

running() { docker ps --quiet --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1" | wc -l; }
meminfo() { awk -v name="$1:" '$1 == name { printf "%.0f", $2 * 1024 }' "$PROC/meminfo" 2>/dev/null; }

memory() {
  total=$(meminfo MemTotal) swap=0
  if [ "${total:-0}" = "$engine_memory" ]; then # the engine's machine is this one, not Docker Desktop's or another
    free=$(meminfo MemAvailable)
    swap=$(meminfo SwapFree)
    there="$(gb "$free") of this machine's $(gb "$total") of memory and $(gb "$swap") of swap are free"
  else
    free=$engine_memory
    there="the engine has $(gb "$engine_memory") of memory"
  fi
  new=$((workers - $(running worker))) new_slow=$((slow - $(running worker-slow)))
  [ "$new" -gt 0 ] || new=0
  [ "$new_slow" -gt 0 ] || new_slow=0
  limit=$(bytes "$(of WORKER_MEMORY)") slow_limit=$(bytes "$(of SLOW_WORKER_MEMORY)") least=$(bytes "$WORKER_NEEDS")
  # shellcheck disable=SC2046 # two words
  set -- $(awk -v room="$((free + swap))" -v least="$least" -v new="$new" -v new_slow="$new_slow" -v limit="$limit" \
    -v slow_limit="$slow_limit" -v all="$((workers + slow))" 'BEGIN {
      fit = all - new - new_slow + int(room / least); if (fit < 0) fit = 0
      each = new > 0 ? int((room - new_slow * slow_limit) / new / 2 ^ 20) : 0
      printf "%.0f %.0f %d %d", (new + new_slow) * least, new * limit + new_slow * slow_limit, fit, each }')
  needed=$1 most=$2 fit=$3 each=$4 named="WORKERS=$workers"
  [ "$slow" = 0 ] || named="$named SLOW=$slow"
  if [ "$needed" -gt $((free + swap)) ]; then
    fault "$named: a worker needs some $WORKER_NEEDS with the smallest model, these $(gb "$needed"), and $there:" \
      "$fit workers fit, as in make up WORKERS=$fit"
  elif [ "$most" -gt $((free + swap)) ]; then
    remedy="fewer WORKERS"
    [ "$each" -lt 600 ] || remedy="WORKER_MEMORY=${each}m (in .env) or fewer WORKERS"
    note "$named: these workers may use $(gb "$most") in all (WORKER_MEMORY=$(of WORKER_MEMORY) each), and $there: enough for" \
      "small models; for large ones give $remedy, or the kernel may end a worker"
  fi
}

# --- what is asked ---------------------------------------------------------------------------------------------------

cd "$(dirname "$0")/.." || exit 1
case ${1:-} in
  engine) engine ;;
  up)
    workers=${2:-5} slow=${3:-0}
    matches "$workers" '0|[1-9][0-9]{0,3}' || give_up "WORKERS=$workers: a whole number, as in make up WORKERS=5"
    matches "$slow" '0|[1-9][0-9]{0,3}' || give_up "SLOW=$slow: a whole number, as in make up SLOW=2"
    engine
    settings
    if [ "$faults" = 0 ]; then # the rest goes by these
      project=$(of COMPOSE_PROJECT_NAME)
      project=${project:-roundtable}
      files
      ports
      memory
    fi
    ;;
  *) give_up "usage: sh scripts/preflight.sh engine, or up WORKERS [SLOW]" ;;
esac
[ "$faults" = 0 ]
