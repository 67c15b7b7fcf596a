# Cleans up after one test process; run by the harness as `bash -c SCRIPT janitor BASE` (scratch.rs).
#
# Waits for the end of standard input, which comes when the test process ends, however it ends. Then it stops
# what the process left running, detaches what it left mounted and removes its directory BASE. Everything a
# test makes names BASE in its arguments, its environment, its mount point or its backing file, and BASE is
# unique, so that nothing of anybody else's is touched.
base=$1
trap '' HUP INT TERM
while read -r _; do :; done
[ -d "$base" ] || exit 0

running() { # PID: there and not a zombie
  local line
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  case ${line##*) } in Z* | X*) return 1 ;; esac
}

stop() { # PIDFILE: SIGTERM, ten seconds, SIGKILL
  local pid
  { read -r pid <"$1"; } 2>/dev/null || return 0
  kill -TERM "$pid" 2>/dev/null
  for _ in {1..100}; do
    running "$pid" || return 0
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null
}

below() { # mount points at or below BASE, the last one first
  awk -v base="$base" '$5 == base || index($5, base "/") == 1 { print $5 }' /proc/self/mountinfo | sort -r
}

remove_containers() { # of this process, in an engine that it did not start
  local ids
  ids=$(timeout 20 docker ps -aq --filter "label=wsguard-test=${base##*/}") || return 0
  [ -z "$ids" ] || timeout 60 docker rm -f $ids
}

[ ! -e "$base/foreign-engine" ] || DOCKER_HOST=$(cat "$base/foreign-engine") remove_containers >/dev/null 2>&1

if [ -e "$base/engine/docker.pid" ]; then
  DOCKER_HOST=unix://$base/engine/d.sock remove_containers >/dev/null 2>&1
  stop "$base/engine/docker.pid"
  stop "$base/engine/containerd.pid"
  for id in "$base"/engine/data/containers/*; do # only those that the engine could not remove
    [ -d "$id" ] || continue
    for pid in $(grep -lF "${id##*/}" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3); do
      kill -KILL "$pid" 2>/dev/null
    done
  done
fi

for proc in /proc/[0-9]*; do
  pid=${proc#/proc/}
  [ "$pid" != $$ ] && [ "$pid" != "$BASHPID" ] || continue
  words=$({ tr '\0' '\n' <"$proc/cmdline" && tr '\0' '\n' <"$proc/environ"; } 2>/dev/null)
  case $words in *"$base"*) running "$pid" && kill -KILL "$pid" 2>/dev/null ;; esac
done

for _ in {1..20}; do
  points=$(below)
  [ -n "$points" ] || break
  while read -r point; do umount -l "$(printf '%b' "$point")" 2>/dev/null; done <<<"$points"
done

losetup -ln -O NAME,BACK-FILE 2>/dev/null | awk -v base="$base/" 'index($2, base) == 1 { print $1 }' |
  while read -r device; do losetup -d "$device"; done
find /sys/fs/cgroup -depth -type d -path "*/wsguard-test-${base##*/}*" -exec rmdir {} + 2>/dev/null
if [ -e "$base/engine/remove" ]; then # what the engine made elsewhere and was not there before
  while read -r path; do
    if [ -f "$path" ]; then rm -f "$path"; else find "$path" -depth -type d -empty -delete 2>/dev/null; fi
  done <"$base/engine/remove"
fi

if [ -n "$(below)" ]; then
  # Removing would go through the mounts to files that are not ours.
  echo "wsguard tests: $base is kept, because something is still mounted there" >&2
  exit 1
fi
rm -rf --one-file-system "$base"
