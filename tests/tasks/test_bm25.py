from fairtrial.tasks.worlds.bm25 import Bm25, Page

PAGES = [Page(f"page {i}", f"the town of number{i % 7} lies by the river") for i in range(50)]


def test_results_are_the_same_every_time_and_ties_keep_the_order_of_the_pages():
    runs = [[hit.page.title for hit in Bm25(PAGES).search("towns by number3", 7)] for _ in range(5)]
    assert runs[0] == [f"page {i}" for i in (3, 10, 17, 24, 31, 38, 45)]
    assert all(run == runs[0] for run in runs)


def test_words_are_stemmed_and_a_title_counts():
    index = Bm25([*PAGES, Page("Rivers of Mars", "dry beds")])
    assert index.search("RIVER, Mars!", 1)[0].page.title == "Rivers of Mars"


def test_no_character_of_a_query_is_an_operator():
    index = Bm25(PAGES)
    for query in ('"', "a:b AND (", "{s1}|#x -x^y ~", "\\", "", "  ", "zzzz"):
        assert index.search(query, 3) == []
    assert index.search('number3" OR (', 1)[0].page.title == "page 3"
