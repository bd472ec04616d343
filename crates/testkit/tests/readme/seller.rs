async fn sell(home: Home, chain: Chain, listener: TcpListener) -> anyhow::Result<()> {
    let seller = Seller::start(&home, chain, Pace::for_network(home.network()), Terms::default())?;
    let gate = Gate::new(Arc::new(seller), Tariff::per_call(Msat::new(10)));
    let app = Router::new().route("/hello", get(|| async { "hello, payer" })).layer(gate);
    Ok(axum::serve(listener, app).await?)
}
