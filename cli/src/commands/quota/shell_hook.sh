# wsguard: shows each notice once at login (made by `wsguard quota shell-hook`).
case $- in
*i*) (
    motd=@MOTD@
    seen_dir="${XDG_STATE_HOME:-$HOME/.local/state}/wsguard"
    for file in "$motd/$(id -u)" "${WSGUARD_WORKSPACE:-/workspace}/.wsguard/notices"; do
        [ -r "$file" ] || continue
        case $file in
        */notices) seen="$seen_dir/seen-workspace" ;;
        *) seen="$seen_dir/seen-login" ;;
        esac
        last=
        [ ! -r "$seen" ] || IFS= read -r last <"$seen"
        # What comes after the last one that was shown; everything if that is gone.
        show=yes
        while IFS= read -r line; do
            [ "$line" != "$last" ] || show=
        done <"$file"
        newest=
        while IFS= read -r line; do
            [ -z "$show" ] || printf 'wsguard: %s\n' "$line"
            [ "$line" != "$last" ] || show=yes
            newest=$line
        done <"$file"
        if [ -n "$newest" ] && [ "$newest" != "$last" ]; then
            { mkdir -p "$seen_dir" && printf '%s\n' "$newest" >"$seen"; } 2>/dev/null
        fi
    done
) ;;
esac
