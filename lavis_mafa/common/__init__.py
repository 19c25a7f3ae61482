"""What every floor uses: files, hashes, ranks, versions. Knows neither LAVIS nor transformers."""
