//! What somebody does whose project is full: get in, look around, clean up.

use std::{fs, path::Path, time::Duration};

use harness::{Facility, Run, require_tool};

use super::ground::{Below, Ground};

/// A full project with a git repository in it.
fn full_project() -> Ground {
    let ground = Ground::new(Below::Ext4);
    let repository = ground.at("repository");
    fs::create_dir(&repository).unwrap();
    fs::write(ground.at("notes.txt"), [b'x'; 5_000]).unwrap();
    git(&repository, &["init", "-q"]);
    fs::write(repository.join("train.py"), "print('hello')\n").unwrap();
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "-q", "-m", "first"]);
    ground.set(&["20M"]);
    fill(&ground);
    ground
}

/// Writes until nothing large fits any more.
fn fill(ground: &Ground) {
    let output = Run::new("dd")
        .args(["if=/dev/zero", "of=large", "bs=1M", "count=1000"])
        .current_dir(ground.path())
        .output();
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("quota"), "{}", output.stderr);
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    Run::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .current_dir(dir)
        .ok()
}

#[test]
fn somebody_whose_project_is_full_can_log_in_look_around_and_clean_up() {
    if !Below::Ext4.is_there() || require_tool("git").is_none() {
        return;
    }
    let ground = full_project();
    let home = ground.path().to_owned();
    // A login shell with its home here: it reads profiles and writes its history.
    let shell = |script: &str| {
        Run::new("bash")
            .args(["--login", "-c", script])
            .env("HOME", &home)
            .env("HISTFILE", home.join(".bash_history"))
            .current_dir(&home)
            .ok()
    };
    shell("set -o history; history -s ls; history -w; test -s .bash_history");
    assert!(shell("ls -la; df -h .; du -sh .; tail -c 100 notes.txt").contains("large"));
    // Here-documents and editors write small files.
    shell("cat > .viminfo <<END\nsmall\nEND\ncp notes.txt notes.swp; rm notes.swp; mkdir -p .config/x");
    shell("printf 'y%.0s' {1..5000} 1<> notes.txt; touch notes.txt; chmod 600 notes.txt; mv notes.txt n.txt");
    let repository = ground.at("repository");
    assert_eq!(git(&repository, &["status", "--porcelain"]), "");
    fs::write(repository.join("train.py"), "print('fixed')\n").unwrap();
    git(&repository, &["commit", "-q", "-a", "-m", "second"]);
    git(&repository, &["stash", "list"]);
    ground.assert_exact("work in a full project");
    shell("truncate -s 1M large; rm large; rm -rf repository/.git; head -c 5M /dev/zero > new");
    ground.assert_exact("a clean-up");
}

#[test]
fn a_jupyter_server_starts_in_a_full_project() {
    if !Facility::Long.check() || !Below::Ext4.is_there() {
        return;
    }
    let ground = Ground::new(Below::Ext4);
    let venv = ground.mount.daemon().make_dir("venv");
    Run::new("python3").args(["-m", "venv"]).arg(&venv).timeout(Duration::from_secs(300)).ok();
    let pip = Run::new(venv.join("bin/pip")).args(["install", "-q", "--no-cache-dir", "jupyterlab"]);
    pip.timeout(Duration::from_secs(500)).ok();
    // The last percent is kept for small files: 2 MiB.
    ground.set(&["200M"]);
    fill(&ground);
    // Settings, workspaces, runtime files and the notebook's own database are made in the home directory.
    let script = r#"
        "$1/bin/jupyter" lab --allow-root --no-browser --ip 127.0.0.1 --port 0 --ServerApp.token=x > "$2/log" 2>&1 &
        server=$!
        trap 'kill $server' EXIT
        for second in $(seq 90); do
            url=$("$1/bin/jupyter" server list 2> /dev/null | grep -o 'http://[^? ]*' | head -1)
            if [ -n "$url" ]; then break; fi
            sleep 1
        done
        "$1/bin/python" - "$url" <<'END'
import sys, json, urllib.error, urllib.request
base = sys.argv[1].rstrip('/')
def call(method, path, body=None):
    request = urllib.request.Request(base + path, method=method, headers={'Authorization': 'token x'},
                                     data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.read()
assert b'jupyter' in call('GET', '/lab').lower()
cell = {'cell_type': 'markdown', 'id': 'a', 'metadata': {}, 'source': 'x' * 400_000}
notebook = {'type': 'notebook', 'content': {'cells': [cell], 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5}}
call('PUT', '/api/contents/saved.ipynb', notebook)
# Opened, changed and saved again: the server keeps a copy of the file before, and one as its checkpoint.
opened = json.loads(call('GET', '/api/contents/saved.ipynb?content=1'))
opened['content']['cells'][0]['source'] = 'y' * 400_000
call('PUT', '/api/contents/saved.ipynb', {'type': 'notebook', 'content': opened['content']})
again = json.loads(call('GET', '/api/contents/saved.ipynb?content=1'))
assert again['content']['cells'][0]['source'] == 'y' * 400_000
# What is too large is refused and said, and the server goes on.
try:
    call('PUT', '/api/contents/more', {'type': 'file', 'format': 'text', 'content': 'z' * 8_000_000})
    raise SystemExit('8 MB fitted into a full project')
except urllib.error.HTTPError as error:
    # Cleaning up after itself, the server hides the reason; it is in the notices.
    assert error.code == 500
call('GET', '/api/contents/')
call('DELETE', '/api/contents/large')
END
    "#;
    let log = ground.mount.daemon().make_dir("jupyter");
    let output = Run::shell(script, [&venv, &log])
        .env("HOME", ground.path())
        .current_dir(ground.path())
        .timeout(Duration::from_secs(200))
        .output();
    let said = fs::read_to_string(log.join("log")).unwrap_or_default();
    assert_eq!(output.code, 0, "{output:?}\n{said}");
    assert!(ground.at("saved.ipynb").exists());
    ground.assert_exact("a server in a full project");
}

#[test]
fn pip_in_a_full_project_takes_packages_away_and_is_refused_cleanly() {
    if !Facility::Long.check() || !Below::Ext4.is_there() {
        return;
    }
    let ground = Ground::new(Below::Ext4);
    let venv = ground.at("venv");
    Run::new("python3").args(["-m", "venv"]).arg(&venv).timeout(Duration::from_secs(300)).ok();
    let pip = |arguments: &[&str]| {
        let run = Run::new(venv.join("bin/pip")).args(arguments).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        run.env("HOME", ground.path()).timeout(Duration::from_secs(300)).output()
    };
    assert_eq!(pip(&["install", "-q", "--no-cache-dir", "idna", "six"]).code, 0);
    let limit = ground.used().bytes + (8 << 20);
    ground.set(&[&format!("{limit}B")]);
    fill(&ground);
    // Downloads and unpacking go to the machine's /tmp; the packages themselves do not fit.
    let refused = pip(&["install", "-q", "--no-cache-dir", "numpy"]);
    assert!(refused.code != 0 && refused.stderr.contains("Disk quota exceeded"), "{refused:?}");
    // What was there works on, and nothing half installed is left.
    let python = |code: &str| Run::new(venv.join("bin/python")).args(["-c", code]).output().code;
    assert_eq!((python("import idna, six, pip"), python("import numpy")), (0, 1));
    let listed = pip(&["list"]);
    assert!(
        listed.code == 0 && listed.stdout.contains("idna") && !listed.stdout.contains("numpy"),
        "{listed:?}"
    );
    assert_eq!(pip(&["check"]).code, 0);
    let removed = pip(&["uninstall", "-q", "-y", "idna"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(python("import idna"), 1);
    ground.assert_exact("pip in a full project");
    fs::remove_file(ground.at("large")).unwrap();
    assert_eq!(pip(&["install", "-q", "--no-cache-dir", "idna"]).code, 0);
}
