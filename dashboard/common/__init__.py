"""What several pages share: charts, the picture viewer, texts and the state in the URL."""
