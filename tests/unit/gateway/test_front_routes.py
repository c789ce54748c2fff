"""Which route takes a request."""

from __future__ import annotations

import pytest

from gateway_standin import application_route, function_route
from shardwright.gateway._problems import Problem
from shardwright.gateway._routes import RouteTable, parameters


def table() -> RouteTable:
    return RouteTable(
        [
            function_route("/items/{item}", "shop.get", "GET"),
            function_route("/items/{item}", "shop.put", "PUT"),
            function_route("/items/new", "shop.new", "GET"),
            function_route("/items/", "shop.list", "GET"),
            function_route("/files/{rest:path}", "shop.file"),
            function_route("/files/{name}/size", "shop.size", "GET"),
            function_route("/a/{x}/c", "shop.axc", "GET"),
            function_route("/a/b/{y}", "shop.aby", "POST"),
            application_route("/", "site"),
            application_route("/shop/", "shopfront"),
            application_route("/shop/admin", "admin", "GET"),
        ]
    )


@pytest.mark.parametrize(
    ("method", "path", "name", "values"),
    [
        ("GET", b"/items/sword", "shop.get", {"item": "sword"}),
        ("HEAD", b"/items/sword", "shop.get", {"item": "sword"}),
        ("PUT", b"/items/sword", "shop.put", {"item": "sword"}),
        ("GET", b"/items/new", "shop.new", {}),
        ("GET", b"/items/n%65w", "shop.new", {}),
        ("PUT", b"/items/new", "shop.put", {"item": "new"}),
        ("GET", b"/items/", "shop.list", {}),
        ("GET", b"/items", "site", {}),
        ("GET", b"/items/a%2Fb", "shop.get", {"item": "a/b"}),
        ("GET", b"/items/%C3%A9", "shop.get", {"item": "é"}),
        ("GET", b"/items/a/b", "site", {}),
        ("PATCH", b"/files/a/b/c", "shop.file", {"rest": "a/b/c"}),
        ("GET", b"/files/a/size", "shop.size", {"name": "a"}),
        ("POST", b"/files/a/size", "shop.file", {"rest": "a/size"}),
        ("GET", b"/files/", "shop.file", {"rest": ""}),
        ("GET", b"/a/b/c", "shop.axc", {"x": "b"}),
        ("POST", b"/a/b/c", "shop.aby", {"y": "c"}),
        ("GET", b"/", "site", {}),
        ("GET", b"//evil", "site", {}),
        ("GET", b"/shopping", "site", {}),
        ("GET", b"/shop", "shopfront", {}),
        ("GET", b"/shop/", "shopfront", {}),
        ("GET", b"/shop/x/y", "shopfront", {}),
        ("GET", b"/shop/../items/new", "shopfront", {}),
        ("GET", b"/shop/admin/x", "admin", {}),
        ("POST", b"/shop/admin/x", "shopfront", {}),
    ],
)
def test_the_most_specific_route_takes_it(method: str, path: bytes, name: str, values: dict[str, str]) -> None:
    match = table().match(method, path)
    assert (match.route.name, match.path) == (name, values)


def test_a_mounted_application_hears_where() -> None:
    assert table().match("GET", b"/shop/x").root_path == "/shop"
    assert table().match("GET", b"/x").root_path == ""


def refused(routes: RouteTable, method: str, path: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        routes.match(method, path)
    return caught.value


def test_what_no_route_takes() -> None:
    routes = RouteTable(
        [
            function_route("/items/{item}", "shop.get", "GET", "DELETE"),
            function_route("/items/{item}", "shop.put", "PUT"),
        ]
    )
    assert refused(routes, "GET", b"/").status == 404
    assert refused(routes, "GET", b"/items/").status == 404
    assert refused(routes, "GET", b"/items/a/").status == 404
    assert refused(routes, "GET", b"items/a").status == 400
    assert refused(routes, "GET", b"/items/%ff").status == 400
    wrong = refused(routes, "POST", b"/items/a")
    assert (wrong.status, wrong.headers) == (405, ((b"allow", b"DELETE, GET, HEAD, PUT"),))
    asked = refused(routes, "OPTIONS", b"/items/a")
    assert (asked.status, asked.headers) == (204, wrong.headers)


def test_a_function_whose_route_names_no_methods_takes_the_usual_ones() -> None:
    routes = RouteTable([function_route("/x", "a.x"), application_route("/app", "app")])
    assert routes.match("DELETE", b"/x").route.name == "a.x"
    assert routes.match("TRACE", b"/app").route.name == "app"
    assert refused(routes, "TRACE", b"/x").headers == ((b"allow", b"DELETE, GET, HEAD, PATCH, POST, PUT"),)


def test_websockets_go_to_applications_alone() -> None:
    assert table().match_websocket(b"/shop/live").route.name == "shopfront"
    assert table().match_websocket(b"/items/sword").route.name == "site"
    with pytest.raises(Problem):
        RouteTable([function_route("/items/{item}", "shop.get")]).match_websocket(b"/items/a")


def test_covered_paths_and_parameters() -> None:
    assert table().covered("/openapi.json")
    assert not RouteTable([function_route("/x", "a.x", "GET")]).covered("/openapi.json")
    assert parameters("/a/{b}/{c:path}") == ("b", "c")
