# An OpenSSH server on loopback that plays another host. It is sourced after begin.sh; `end_ssh` ends it.
sshd=$(PATH="$PATH:/usr/sbin:/sbin" command -v sshd) # Debian's package openssh-server
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd

# Its keys and ours: host, another for the host, client; and known_hosts, which vouches for the first: ssh_keys PORT
ssh_keys() {
    for name in client host other; do ssh-keygen -q -t ed25519 -N "" -f "$work/$name"; done
    echo "[127.0.0.1]:$1 $(cut -d ' ' -f 1,2 "$work/host.pub")" > "$work/known_hosts"
}

# Serve under one of its keys, and return when it listens: serve_ssh PORT KEY
serve_ssh() {
    cat > "$work/sshd_config" << END
ListenAddress 127.0.0.1:$1
HostKey $work/$2
AuthorizedKeysFile $work/client.pub
SetEnv PATH=$(dirname "$(command -v python3)"):/usr/local/bin:/usr/bin:/bin
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
END
    "$sshd" -D -e -f "$work/sshd_config" 2>> "$work/sshd.log" &
    ssh_server=$!
    until python3 -c "import socket; socket.create_connection(('127.0.0.1', $1), 1)" 2> /dev/null; do sleep 0.1; done
}

end_ssh() {
    kill "$ssh_server"
    wait "$ssh_server" || true
}
