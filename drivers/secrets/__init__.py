"""Secret values, resolved from their references at the moment of use and known to the redactor from then on.

Documents hold the name of a secret, never its value. Where it is kept decides how it is named:

    apiVersion: holdfast/v1
    kind: Environment
    name: staging
    release: shop@1.0.0
    components:
      api:
        environment:
          FROM_HERE: {secret: "env:SHOP_TOKEN"}                                # a variable of the daemon
          FROM_FILE: {secret: "file:/run/secrets/shop.json#password"}          # of JSON, or of lines KEY=value
          FROM_VAULT: {secret: "vault:kv/shop/staging#password", version: "7"}
          FROM_AWS: {secret: "aws-sm:shop/staging#password", version: AWSCURRENT}
          FROM_SSM: {secret: "aws-ssm:/shop/staging/password"}
          FROM_SOPS: {secret: "sops:/etc/holdfast/staging.enc.yaml#db.password"}
        registry_credentials: {secret: "vault:kv/registry#login"}              # username:password

What an operator should know:

- A field below others is named with dots. Values are texts: put numbers into quotes where they are kept.
- `version` is part of what is declared, so raising it redeploys. Vault and AWS are asked for exactly that version; for
  the others it is a word of yours. Without one the latest is read with every deployment, and a new value alone changes
  nothing that runs.
- Secrets are resolved by the daemon, as its user and with its environment. `holdfast doctor` resolves them as you.
- Each has ten seconds. What does not answer is tried again, what says no fails the action; the
  error names the reference and never the value.
- How a value reaches the workload is declared. In `environment`, as a variable: of a container it is shown by `docker
  inspect` to whoever may ask the engine; of a process, by /proc to its own user and root. In `secrets`, as a file in
  memory, which neither shows:

      components:
        api:
          secrets:
            db-password: {secret: "vault:kv/shop/staging#password", version: "7"}     # /run/secrets/db-password
            token: {secret: "env:SHOP_TOKEN", path: /etc/shop/token}                  # containers only

  docker    a file at `path`, or at /run/secrets/NAME, read-only, for every process of the container
  systemd   a credential: $CREDENTIALS_DIRECTORY/NAME, for the service's user alone; needs systemd 247, and mounts that
            are shared, as they are everywhere but in some containers
  the rest  have none; `holdfast validate` names the field

`vault:` needs VAULT_ADDR and one of VAULT_TOKEN, VAULT_TOKEN_FILE (an agent's sink), ~/.vault-token, or VAULT_ROLE_ID
with VAULT_SECRET_ID or VAULT_SECRET_ID_FILE; VAULT_NAMESPACE and VAULT_CACERT where they apply. The first part of the
path is the mount of a key-value store of version 2; the policy needs read on MOUNT/data/PATH.

    403   the token has expired, or its policy lacks read on that path
    404   nothing is there, or not in that version; deleted and destroyed versions are told apart
    503   sealed, or in maintenance; tried again
    429, 472, 473, and redirects: a standby; VAULT_ADDR should be the active node or the cluster's own address

`aws-sm:` and `aws-ssm:` find credentials and region as every program of AWS does (AWS_* variables, profiles, the role
of the machine), and need secretsmanager:GetSecretValue or ssm:GetParameter, and kms:Decrypt on a key of one's own. A
secret may be named by its ARN, and is then read in that region. Needs boto3.

`sops:` reads YAML, JSON and .env files that were encrypted to an age key (`sops encrypt --age`), with SOPS_AGE_KEY,
SOPS_AGE_KEY_FILE or ~/.config/sops/age/keys.txt, and no `sops` binary. Every value and the MAC of the file are
checked; a value that stands there in the clear is not handed out. Keys of other kinds, split keys and INI files are
refused. Needs the extra `sops`.

Verified: SOPS files against those that SOPS 3.8 and 3.9 wrote; AWS against moto's server with the real SDK; Vault
against a server written from its published API, and a real one where VAULT_ADDR is set for the tests.
"""
