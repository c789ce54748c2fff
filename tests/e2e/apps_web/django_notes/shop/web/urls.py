from django.urls import path

from shop.web import views

urlpatterns = [
    path("", views.index, name="index"),
    path("products/<int:number>/", views.product, name="product"),
    path("offer/", views.offer, name="offer"),
    path("basket/<int:number>/", views.put, name="put"),
    path("buy/", views.buy, name="buy"),
    path("export.csv", views.export, name="export"),
    path("import/", views.bring, name="import"),
    path("broken/", views.broken),
    path("where/", views.where),
]
