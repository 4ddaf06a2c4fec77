"""Placements as tasks of a Nomad job: one target is one job, and its template says which task runs which component.

Verified against: contract. The tests run against a server written from Nomad's published HTTP API; the same conformance
tests run against a real agent when NOMAD_ADDR is set (and NOMAD_TOKEN), with a registry that its Docker reaches. None
was asked so far.

A target as its document says it::

    connection:
      address: https://nomad.example.com:4646
      namespace: shop
      job: shop
      token: {secret: "file:/etc/holdfast/nomad-token"}
      tls: {ca: /etc/holdfast/nomad-ca.pem}
      file: /etc/holdfast/jobs/shop.hcl
      tasks:
        front/api: api
        back/worker: worker

and its job, which the server parses (`hcl` holds the text itself; `template`, or a file that ends in .json, holds the
job in the terms of Nomad's JSON API)::

    job "shop" {
      group "front" {
        count = 2
        network { port "http" { to = 8080 } }
        task "api" {
          driver = "docker"
          config { ports = ["http"] }
        }
      }
      group "back" {
        task "worker" { driver = "docker" }
      }
    }

What an operator should know:

- The job belongs to one target alone, and is a service. A job of that name that holds nothing of the target is a
  conflict and stays as it is; whatever else is put into the job by hand goes with the next deploy.
- The release says the images, so the template says none for a task that runs a component. Images of other tasks are
  pinned by digest there. Tasks that run a component are of the drivers docker and podman.
- The component's configuration says command, environment, user, stop_grace, memory in whole MiB and cpus in whole
  cores; ports, volumes, networks, restarts and the runtime's checks are the template's, and refused in a component.
- A task is told from others by its meta (`holdfast_…`, which the task also finds in its environment as NOMAD_META_…).
  Meta of groups and of the job is left alone: changing it would restart every allocation.
- One action is one registration. A component whose group does not change is not restarted; tasks of one group come and
  go together, since Nomad replaces the allocation. One of several in a group cannot be stopped alone.
- Every registration names the index of the job it takes the place of, so that whoever changes the job in between makes
  a conflict. Only taking the last component away (a deregistration) knows no condition.
- Canaries are promoted when they are proven, unless the template has Nomad promote them. `auto_revert` is welcome: what
  Nomad puts back itself is proven and answered as reverted. A changed template is a difference, and is deployed.
- A group with a `scaling` block keeps the count that it was scaled to.
- The way back is an earlier version of the job. Nomad keeps six; what is older is rendered again from the template.
- Nomad's own word on its deployment comes first, then the checks of the template's services whose provider is `nomad`,
  then the declared health: asked at the address and port that Nomad gave each allocation, which must be reached from
  here. A command cannot be run.
- Secrets are written to the Variable `nomad/jobs/JOB/GROUP/TASK`, which that task may read by its own identity, and
  reach it as environment from `${NOMAD_SECRETS_DIR}/holdfast.env`, a file in memory. No value stands in the job.
- Stickers are Variables below `holdfast/`, one for each placement, written by check-and-set. Variables came with
  Nomad 1.4, which is the oldest that will do.

The policy of its token, for the namespace `shop`::

    namespace "shop" {
      capabilities = ["read-job", "submit-job", "parse-job", "read-logs", "alloc-lifecycle"]
      variables {
        path "holdfast/*" { capabilities = ["read", "write", "destroy"] }
        path "nomad/jobs/shop/*" { capabilities = ["read", "write"] }
      }
    }

    agent { policy = "read" }

`alloc-lifecycle` is for restarts, `read-logs` for logs, `parse-job` for HCL alone, and `agent` lets the doctor tell the
version; whatever is missing is named when Nomad denies it.
"""
