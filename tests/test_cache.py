"""What lies in the cache is shown, and cleared when that is wanted."""

import sys

from imgbench import cache


def test_cache_shows_what_lies_there_and_clears_it(cache_home, monkeypatch, capsys):
    (cache_home / "entry").mkdir()
    (cache_home / "entry" / "pixels.npy").write_bytes(bytes(2_000_000))
    (cache_home / "digits").mkdir()
    monkeypatch.setattr(sys, "argv", ["cache"])
    cache.main()
    out = capsys.readouterr().out
    assert f"{cache_home}: 2.0 MB in 2 entries" in out
    assert "1 files  entry" in out and "the digits of data=digits" in out
    assert (cache_home / "entry" / "pixels.npy").exists()
    monkeypatch.setattr(sys, "argv", ["cache", "--clear"])
    cache.main()
    assert list(cache_home.iterdir()) == []
    assert f"Cleared    {cache_home}: 2.0 MB" in capsys.readouterr().out


def test_cache_that_is_not_there_is_empty(cache_home, monkeypatch):
    monkeypatch.setenv("IMGBENCH_CACHE", str(cache_home / "none"))
    assert cache.cache(clear=True) == []


def test_links_in_the_cache_are_cleared_and_what_they_lead_to_stays(cache_home, tmp_path):
    (tmp_path / "photos").mkdir()
    (cache_home / "link").symlink_to(tmp_path / "photos")
    cache.cache(clear=True)
    assert (tmp_path / "photos").is_dir() and not (cache_home / "link").is_symlink()
