import os

from django import forms
from django.contrib import messages
from django.http import Http404, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from shop import logic
from shop.data import Duplicate


class Offer(forms.Form):
    name = forms.CharField(max_length=10)
    price = forms.DecimalField(min_value=0, max_digits=6, decimal_places=2)
    stock = forms.IntegerField(min_value=0)


@require_GET
def index(request):
    return render(request, "index.html", {"products": logic.catalogue(), "basket": request.session.get("basket", {})})


def product(request, number):
    found = logic.priced(number)
    if found is None:
        raise Http404
    return JsonResponse(found)


@require_POST
def offer(request):
    form = Offer(request.POST)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors.get_json_data()}, status=400)
    try:
        number = logic.offer(**form.cleaned_data)
    except Duplicate as error:
        return JsonResponse({"errors": {"name": f"{error} is there already"}}, status=409)
    return redirect("product", number=number)


@require_POST
def put(request, number):
    basket = request.session.setdefault("basket", {})
    basket[str(number)] = basket.get(str(number), 0) + 1
    request.session.modified = True
    messages.info(request, f"{basket[str(number)]} of {number} in the basket")
    return redirect("index")


@require_POST
def buy(request):
    try:
        total = logic.buy(request.session.pop("basket", {}))
    except logic.SoldOut as error:
        return HttpResponseBadRequest(f"sold out: {error}", content_type="text/plain")
    return JsonResponse({"total": total})


def export(request):
    return StreamingHttpResponse((logic.line(number) for number in logic.numbers()), content_type="text/csv")


@require_POST
def bring(request):
    return JsonResponse({"imported": logic.imported(request.FILES["file"].read().decode())}, status=201)


def broken(request):
    raise RuntimeError("a mistake")


def where(request):
    return JsonResponse({"web": os.getpid(), **logic.where()})
