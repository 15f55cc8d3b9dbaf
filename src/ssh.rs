//! What `ssh` is told whenever we start it.

/// The file with host keys, beside the configuration.
pub const KNOWN_HOSTS: &str = "known_hosts";

/// Settings of `ssh_config(5)` for every host: who is known and who logs in comes
/// from files of ours, and what is not needed is off. To be used with `-F`,
/// which keeps ssh from reading other files, in a folder of ours: ssh expands
/// characters in paths that are longer.
pub const SETTINGS: &str = "    UserKnownHostsFile known_hosts
    GlobalKnownHostsFile none
    KnownHostsCommand none
    StrictHostKeyChecking yes
    UpdateHostKeys no
    VerifyHostKeyDNS no
    CheckHostIP no
    CanonicalizeHostname no
    IdentitiesOnly yes
    IdentityAgent none
    CertificateFile none
    AddKeysToAgent no
    PubkeyAuthentication yes
    PreferredAuthentications publickey
    PasswordAuthentication no
    KbdInteractiveAuthentication no
    GSSAPIAuthentication no
    HostbasedAuthentication no
    BatchMode yes
    ClearAllForwardings yes
    ForwardAgent no
    ForwardX11 no
    Tunnel no
    PermitLocalCommand no
    ProxyCommand none
    ProxyJump none
    ControlMaster no
    ControlPath none
    RequestTTY no
    EscapeChar none
    IPQoS none
    Compression no
    ConnectTimeout 15
    ConnectionAttempts 1
    ServerAliveInterval 10
    ServerAliveCountMax 3
    TCPKeepAlive no
    LogLevel ERROR
";
