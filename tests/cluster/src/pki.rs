//! Keys, certificates and kubeconfig files of a cluster.
//!
//! `up` creates them once, valid for a month; `down` removes them.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::layout::Layout;
use super::settings::{API_PORT, DOMAIN, KUBERNETES_SERVICE};
use super::shape::{Node, Shape};

/// Components with the identity `system:NAME`.
const COMPONENTS: [&str; 3] = ["kube-controller-manager", "kube-scheduler", "kube-proxy"];
/// Name of the kubeconfig of the cluster's administrator.
pub(super) const ADMIN: &str = "admin";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Creates all missing files.
pub(super) fn make(layout: &Layout, shape: &Shape) -> Result<()> {
    // Written last: an incomplete set is created again.
    if layout.kubeconfig(ADMIN).exists() {
        return Ok(());
    }
    let ca = authority(layout, "ca")?;
    let front = authority(layout, "front-proxy-ca")?;
    let signer = KeyPair::generate()?;
    write(&layout.pki("service-accounts.key"), &signer.serialize_pem())?;
    write(&layout.pki("service-accounts.pub"), &signer.public_key_pem())?;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let control = Node::control_plane();
    issue(layout, &ca, "apiserver", ("kube-apiserver", None), &api_names(&control))?;
    issue(layout, &ca, "apiserver-kubelet-client", ("kube-apiserver-kubelet-client", Some("system:masters")), &[])?;
    issue(layout, &front, "front-proxy-client", ("front-proxy-client", None), &[])?;
    for node in shape.all() {
        let user = format!("system:node:{}", node.name);
        let subject = (user.as_str(), Some("system:nodes"));
        issue(layout, &ca, &format!("kubelet-{}", node.name), subject, &[node.name.clone(), node.v4(), node.v6()])?;
        kubeconfig(layout, &ca, &format!("node-{}", node.name), subject, client.clone())?;
    }
    for name in COMPONENTS {
        kubeconfig(layout, &ca, name, (&format!("system:{name}"), None), client.clone())?;
    }
    kubeconfig(layout, &ca, ADMIN, (ADMIN, Some("system:masters")), client)
}

/// Returns all names and addresses of the API server.
fn api_names(control: &Node) -> Vec<String> {
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from);
    let mut names = vec!["localhost".into(), "127.0.0.1".into(), format!("kubernetes.default.svc.{DOMAIN}")];
    names.extend(service);
    names.extend(KUBERNETES_SERVICE.map(String::from));
    names.extend([control.v4(), control.v6()]);
    names
}

fn authority(layout: &Layout, name: &str) -> Result<Authority> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    limit(&mut params);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    write(&layout.pki(&format!("{name}.crt")), &authority.pem())?;
    write(&layout.pki(&format!("{name}.key")), &authority.key().serialize_pem())?;
    Ok(authority)
}

/// Creates a certificate and its key; for a server if there are names, otherwise for a client.
fn issue(layout: &Layout, ca: &Authority, file: &str, subject: (&str, Option<&str>), names: &[String]) -> Result<()> {
    let server = !names.is_empty();
    let usage = if server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
    let (certificate, key) = sign(ca, subject, names, usage)?;
    write(&layout.pki(&format!("{file}.crt")), &certificate)?;
    write(&layout.pki(&format!("{file}.key")), &key)
}

fn sign(
    ca: &Authority,
    (user, group): (&str, Option<&str>),
    names: &[String],
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, String)> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    limit(&mut params);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Makes a certificate valid for a month, starting yesterday because clocks may differ.
fn limit(params: &mut CertificateParams) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(30);
}

fn kubeconfig(
    layout: &Layout,
    ca: &Authority,
    name: &str,
    subject: (&str, Option<&str>),
    usage: ExtendedKeyUsagePurpose,
) -> Result<()> {
    let (certificate, key) = sign(ca, subject, &[], usage)?;
    for (file, text) in [("crt", &certificate), ("key", &key)] {
        write(&layout.pki(&format!("client-{name}.{file}")), text)?;
    }
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "cluster",
        "clusters": [{"name": "cluster", "cluster": {
            "server": api_server(),
            "certificate-authority": layout.pki("ca.crt"),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate": layout.pki(&format!("client-{name}.crt")),
            "client-key": layout.pki(&format!("client-{name}.key")),
        }}],
        "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": name}}],
    });
    write(&layout.kubeconfig(name), &serde_json::to_string_pretty(&config)?)
}

/// Returns the URL of the API server that works without any Service.
pub(super) fn api_server() -> String {
    format!("https://{}:{API_PORT}", Node::control_plane().v4())
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let parent = path.parent().context("the path of a file has no directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
