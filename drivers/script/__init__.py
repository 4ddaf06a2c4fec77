"""The script driver: a host, this one or another, on which somebody's own commands deploy, and tell what runs.

What an operator should know:

- A target names commands as lists of words, never as shell lines: `version`, `deploy` and `remove`, and where there are
  such `restart` and `health`. They are run in the placement's own directory below `connection.root`, with a deadline,
  in a session of their own. Their environment is PATH, HOLDFAST_* and `connection.inputs`, nothing is inherited; what
  is wanted comes as one JSON object on standard input, secret values included.
- `version` prints nothing where nothing stands, else `{"artifact": "<reference or digest>"}`, and may add `state`
  (running, starting, restarting, stopped), `configuration`, `instance`, `started_at` (seconds since 1970), `exit_code`
  and `restarts`. An exit code other than 0 means that it cannot be told, which is never taken for "nothing".
- `deploy` makes `placement` so, running or not as it says, and is repeatable: it may be run again after it was cut off.
  It is run again with the placement before when proof fails: that is the way back. Without `restart`, `deploy` is.
- What ends with another exit code than 0 has failed, and the last line it printed is reported. A command that was begun
  is carried out although the daemon is gone; until it has ended the placement is busy.
- A workload is healthy when `health` exits 0 and the declared check, if any, is answered. Who answers on a port is not
  known here: that is the scripts' part.
- Over SSH (`connection.via: ssh`) the commands are run on the host, as whom we log in there. It needs Python 3.8; our
  side is brought as one file. A command that was begun goes on when the connection is lost, keeps the placement, and
  writes down how it ended: whoever comes back reads that, and does not begin it again.
- On a Windows host (`via: winrm`) commands are programs, no batch files, and find SystemRoot, SystemDrive, PATH,
  PATHEXT, TEMP, TMP and ComSpec beside what is theirs. There an order lies, until its command is begun, in a file that
  only administrators read.
- Every look asks `version` once for each placement, of sixteen targets at a time, and gives it ten seconds.
- Stickers, the highest fence and the record of what was deployed lie in the placement's directory, as the process
  driver has them.
"""
