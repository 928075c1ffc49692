//! A server behind a certificate of a private authority.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::world::each;

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(vec![])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Ends TLS for a server, until its runtime ends: the URL.
async fn end_tls(server: String, authority: &CertifiedIssuer<'static, KeyPair>) -> Result<String> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, authority)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                copy_bidirectional(&mut client, &mut TcpStream::connect(server).await?).await
            });
        }
    });
    Ok(url)
}

#[tokio::test]
async fn a_server_is_trusted_by_the_authority_of_its_secret_and_by_no_other() -> Result<()> {
    each(async |world| {
        world
            .owner
            .batch_execute(
                "CREATE TABLE item (id int PRIMARY KEY);
                 SELECT sluice.define_stream('item', source => 'public.item', key => 'id');
                 SELECT sluice.track('item', stream => 'item', key => 'id');
                 SELECT sluice.deliver('item', target => 'clickhouse')",
            )
            .await?;
        world.migrate().await?;
        world.owner.batch_execute("INSERT INTO item VALUES (1)").await?;
        let (trusted, other) = (authority()?, authority()?);
        let url = end_tls(world.address()?, &trusted).await?;
        for ca in [None, Some(other.pem())] {
            world.set_secret(|secret| {
                secret["url"] = url.clone().into();
                secret["ca"] = ca.into();
            })?;
            let error = world.step(&mut world.stranger()?).await.err().context("nobody vouches for it")?.to_string();
            assert!(error.contains("does not take it"), "{error}");
        }
        world.set_secret(|secret| {
            secret["url"] = url.into();
            secret["ca"] = trusted.pem().into();
        })?;
        world.step(&mut world.stranger()?).await?;
        assert_eq!(world.rows("SELECT id FROM item").await?, ["1"]);
        Ok(())
    })
    .await
}
