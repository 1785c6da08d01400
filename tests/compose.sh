#!/usr/bin/env bash
# Three containers of docker-compose.yml under load, each killed once: writes go on, and what was acknowledged is there.
#
# Needs Docker, Compose (1.29 or 2) and curl, and the ports 8080 to 8082. Builds the image if there is none. Runs under a
# project name of its own and removes its containers and volumes at the end; the image stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

producers=4
records=200
patience=120

compose=(docker-compose)
docker compose version >/dev/null 2>&1 && compose=(docker compose)
compose+=(--project-name pilgrimage-check)
brokers=(broker1 broker2 broker3)
ports=(8080 8081 8082)
work=$(mktemp -d)

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  "${compose[@]}" logs --tail=30 >&2 || true
  exit 1
}

clean() {
  local code=$?
  [ "$code" -eq 0 ] || printf 'ended with exit code %d\n' "$code" >&2
  touch "$work/stop"
  wait
  "${compose[@]}" down --volumes --timeout 30 >/dev/null 2>&1
  rm -rf "$work"
}
trap clean EXIT

# until_true WHAT COMMAND...: waits until the command succeeds.
until_true() {
  local what=$1 deadline=$((SECONDS + patience))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$what: not within $patience s"
    sleep 0.2
  done
}

container() { "${compose[@]}" ps --all --quiet "$1"; }
inspect() { docker inspect --format "$2" "$(container "$1")"; }
healthy() { [ "$(inspect "$1" '{{.State.Health.Status}}')" = healthy ]; }
inside() { "${compose[@]}" exec -T "$@"; }
# Three nodes at work, and every copy of every partition in sync.
whole() {
  local status
  status=$(inside "$1" pilgrimage cluster status --url http://127.0.0.1:8080)
  [ "$(grep -c ': active, votes' <<<"$status")" -eq 3 ] && grep -q '0 without leader, 0 under-replicated' <<<"$status"
}
acknowledged() { cat "$work"/acknowledged.* | wc -l; }
more_than() { [ "$(acknowledged)" -gt "$1" ]; }

# Every value is sent once, and noted if a node acknowledges it. What fails goes to the next node with the next value.
produce() {
  local producer=$1 at=$1 number=0
  until [ -e "$work/stop" ]; do
    number=$((number + 1))
    if curl --silent --fail --max-time 30 --output /dev/null --data "$producer-$number" \
      "http://localhost:${ports[at % 3]}/v1/topics/check/publish?acks=all"; then
      echo "$producer-$number" >>"$work/acknowledged.$producer"
    else
      at=$((at + 1))
    fi
  done
}

# check_records BROKER: all that was acknowledged is there, and nothing twice.
check_records() {
  inside "$1" pilgrimage consume --url http://127.0.0.1:8080 --topic check --from earliest --format raw |
    sort >"$work/read"
  local lost twice
  lost=$(sort "$work"/acknowledged.* | comm -23 - "$work/read" | wc -l)
  twice=$(uniq -d "$work/read" | wc -l)
  printf '%s: %d records read, %d acknowledged, %d lost, %d twice\n' \
    "$1" "$(wc -l <"$work/read")" "$(acknowledged)" "$lost" "$twice"
  [ "$lost" -eq 0 ] && [ "$twice" -eq 0 ] || fail "$1 does not give what was acknowledged"
}

"${compose[@]}" up --detach
for broker in "${brokers[@]}"; do
  until_true "$broker is healthy" healthy "$broker"
done
until_true "three nodes vote" whole broker1
[ "$(inside broker1 id -u)" != 0 ] || fail "the container runs as root"
inside broker1 touch /written 2>/dev/null && fail "the root of the container can be written"
curl --silent --fail --show-error --request PUT --header 'content-type: application/json' \
  --data '{"partitions":3}' "http://localhost:8080/v1/topics/check" |
  grep -q '"replication_factor":3' || fail "a topic has not three copies by default"
until_true "three copies in sync" whole broker1

for producer in $(seq 0 $((producers - 1))); do
  : >"$work/acknowledged.$producer"
  produce "$producer" &
done
for broker in "${brokers[@]}"; do
  before=$(acknowledged)
  until_true "$records more acknowledgements" more_than $((before + records))
  docker kill "$(container "$broker")" >/dev/null
  before=$(acknowledged)
  until_true "$records more acknowledgements without $broker" more_than $((before + records))
  printf '%s killed: writes went on\n' "$broker"
  docker start "$(container "$broker")" >/dev/null
  until_true "$broker is healthy again" healthy "$broker"
  until_true "three copies in sync with $broker" whole "$broker"
  printf '%s back: three copies in sync\n' "$broker"
done
touch "$work/stop"
wait
for broker in "${brokers[@]}"; do
  check_records "$broker"
done

"${compose[@]}" stop --timeout 30 >/dev/null 2>&1
for broker in "${brokers[@]}"; do
  code=$(inspect "$broker" '{{.State.ExitCode}}')
  [ "$code" -eq 0 ] || fail "$broker ended with exit code $code"
done
"${compose[@]}" up --detach >/dev/null 2>&1
until_true "the cluster is back after a stop of all nodes" whole broker1
check_records broker1
echo "passed"
