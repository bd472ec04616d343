async fn call(home: Home, chain: Chain, url: &str) -> anyhow::Result<String> {
    let buyer = Buyer::start(&home, chain, Pace::for_network(home.network()), 6)?;
    let client = Client::new(Arc::new(buyer), Duration::from_secs(30))?;
    let caller = Arc::new(Caller::new(client, Means::default()).await?);
    let mut answer = caller.get(url).await?;
    let body = answer.bytes(1 << 20).await?;
    Ok(format!("{} for {}", String::from_utf8_lossy(&body), answer.cost()))
}
