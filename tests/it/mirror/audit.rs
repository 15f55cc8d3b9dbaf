//! What an audit of a mirror finds.

use super::with_mirror;

#[test]
fn an_audit_finds_what_is_not_as_published() {
    let (lab, mirror) = with_mirror();
    let count = |said: &str| said.lines().filter(|line| line.starts_with("  ")).count();
    for name in ["eu1", "here"] {
        let said = lab.runs(&["mirror", "audit", name]).exits(0);
        said.says(&format!("{name}  publication 3, ")).says("as published, and nothing else");
    }
    lab.runs(&["mirror", "audit", "us1"]).exits(2).says("terminal.toml has no mirror `us1`");
    let pool = "releases/kestrel/1.1";
    mirror.as_root(&format!(
        "cd /srv/mirror/pool-root/pub/{pool}; printf X | dd of=kestrel-1.1 conv=notrunc status=none; rm kestrel-1.1.notes; \
         chmod 644 SHA256SUMS; echo extra >extra; chmod 444 extra; ln -s /etc/passwd link; mkdir -p ../.git; echo x >../.git/x; \
         printf x >\"$(printf 'a\\033[31mb')\"; \
         cd /srv/mirror/meta-root/pub/metadata; echo junk >1.kestrel.json; echo junk >99.root.json; chmod 666 1.root.json"
    ))
    .exits(0);
    let said = lab.runs(&["mirror", "audit", "eu1"]).exits(3);
    // The bytes are there under both names of the file, whose name is no matter.
    for line in [
        format!("changed     {pool}/kestrel-1.1:"),
        "changed     targets/kestrel/1.1/".to_owned(),
        format!("missing     {pool}/kestrel-1.1.notes: readers get nothing"),
        format!("unexpected  {pool}/extra: nobody has published it"),
        format!("unexpected  {pool}/link: nobody"),
        "unexpected  releases/kestrel/.git/x: nobody".to_owned(),
        format!("unexpected  {pool}/a\\u{{1b}}[31mb: nobody"),
        format!("mode        {pool}/SHA256SUMS: its mode there is 100644"),
        "changed     metadata/1.kestrel.json:".to_owned(),
        "unexpected  metadata/99.root.json".to_owned(),
        "mode        metadata/1.root.json: its mode there is 100666".to_owned(),
    ] {
        assert!(said.has(&line), "no {line:?} in {said:?}");
    }
    let json = lab.runs(&["mirror", "audit", "eu1", "--json"]).exits(3).out;
    let json = release::manifest::json::from_slice(json.as_bytes()).unwrap();
    let findings = json["findings"].as_array().unwrap().len();
    // One more name of the file whose mode changed.
    assert!(findings >= 12, "{json}");
    assert!(count(&said.out) >= findings, "a line for each");
    lab.runs(&["mirror", "audit", "here"]).exits(0);
}
